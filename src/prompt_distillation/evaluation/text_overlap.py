"""How near a generated text is to a reference. Exact agreement says nothing of free text."""

from collections import Counter
from collections.abc import Sequence

from prompt_distillation.data.results import Prediction, TextOverlap, TruthKind

CHRF_ORDER = 6
CHRF_BETA = 2.0


def text_overlap(predictions: Sequence[Prediction], reference: TruthKind) -> TextOverlap | None:
    """Means over the inputs that have a reference; no answer scores 0. None without references."""
    pairs = [
        (item.predicted or "", item.ground_truth)
        for item in predictions
        if item.ground_truth is not None
    ]
    if not pairs:
        return None
    return TextOverlap(
        reference=reference,
        n=len(pairs),
        token_f1=sum(token_f1(*pair) for pair in pairs) / len(pairs),
        rouge_l=sum(rouge_l(*pair) for pair in pairs) / len(pairs),
        chrf=sum(chrf(*pair) for pair in pairs) / len(pairs),
    )


def token_f1(text: str, reference: str) -> float:
    """F1 of the bags of words (Rajpurkar et al. 2016, SQuAD), case folded."""
    words, wanted = Counter(text.casefold().split()), Counter(reference.casefold().split())
    return _f_score((words & wanted).total(), words.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, ROUGE), case folded."""
    words, wanted = text.casefold().split(), reference.casefold().split()
    lengths = [0] * (len(wanted) + 1)
    for word in words:
        diagonal = 0
        for column, other in enumerate(wanted, start=1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return _f_score(lengths[-1], len(words), len(wanted))


def chrf(text: str, reference: str) -> float:
    """F2 of character n-grams up to 6, white space left out (Popović 2015, chrF)."""
    text, reference = "".join(text.split()), "".join(reference.split())
    scores = []
    for order in range(1, CHRF_ORDER + 1):
        grams, wanted = _grams(text, order), _grams(reference, order)
        if grams or wanted:
            overlap = (grams & wanted).total()
            scores.append(_f_score(overlap, grams.total(), wanted.total(), beta=CHRF_BETA))
    return sum(scores) / len(scores) if scores else 1.0


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


def _f_score(overlap: int, given: int, wanted: int, *, beta: float = 1.0) -> float:
    """F score of a precision ``overlap / given`` and a recall ``overlap / wanted``."""
    if given == wanted == 0:
        return 1.0
    return (1 + beta**2) * overlap / (given + beta**2 * wanted)
