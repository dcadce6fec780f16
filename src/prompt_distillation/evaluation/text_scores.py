"""What can be counted of texts: overlap with a reference, variety, missing answers, quotations.

Every figure has a 95 % interval: Wilson's for a share, the bootstrap over inputs for the others.
BLEU, chrF, ROUGE-L and the similarity of embeddings are their libraries' own values. None of them
sees whether a text is right or in character: `prober` measures more, at a higher price.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from prompt_distillation.data.intervals import (
    RESAMPLES,
    Estimate,
    Interval,
    bootstrap,
    mean_estimate,
    share_of,
)
from prompt_distillation.data.results import Leaks, Prediction, TextScores, TruthKind
from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.tasks import END_OF_THINKING, START_OF_THINKING, RejectReason, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUOTATION_WORDS = 8
"""So many words in a row are a quotation: shorter runs are often just phrases."""

_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])"
)
"""Characters of scripts that put no spaces between words."""


class SentenceEncoder(Protocol):
    """What is used of a model of sentence-transformers."""

    def encode(
        self, sentences: list[str], *, normalize_embeddings: bool, show_progress_bar: bool
    ) -> "NDArray[np.float32]":
        """Embeddings, one row for each text."""


def check_similarity(model: str | None, task: Task) -> None:
    """Load the model of `--similarity_model`, if there is one, before anything else costs time.

    Raises:
        ConfigError: the task's answers are not texts, or sentence-transformers is not installed.
        ModelError: the model cannot be loaded.
    """
    if model is None:
        return
    if task.answers.metrics != "text":
        raise ConfigError(
            f"--similarity_model compares texts; the answers of the task {task.name!r} are of the "
            f"kind {task.kind}; leave it out"
        )
    _load_encoder(model)


@functools.cache
def _load_encoder(model: str) -> SentenceEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            f"--similarity_model needs sentence-transformers ({error}); install it with `pip "
            "install -e '.[text]'`"
        ) from error
    try:
        encoder: SentenceEncoder = SentenceTransformer(model)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"cannot load the similarity model {model}: {error}; pass the name or folder of a "
            "model of sentence-transformers"
        ) from error
    return encoder


def text_scores(
    predictions: Sequence[Prediction],
    reference: TruthKind,
    *,
    prompt: str,
    reasonings: Sequence[str | None] = (),
    similarity_model: str | None = None,
) -> TextScores:
    """Score texts.

    Args:
        predictions: not empty; those without a ground truth are left out of what compares.
        reference: what their ground truth is.
        prompt: of the task, which no answer should quote.
        reasonings: the teacher's about each input, None where it is not known; may be left out.
        similarity_model: a name or folder; None compares no embeddings.
    """
    pairs = [
        (item.predicted or "", item.ground_truth)
        for item in predictions
        if item.ground_truth is not None
    ]
    texts, references = [text for text, _ in pairs], [truth for _, truth in pairs]
    written = [found for item in predictions if (found := words(item.predicted or ""))]
    total = len(predictions)
    reasons = [item.reject_reason for item in predictions]
    bleu, chrf, length_ratio = _sacrebleu_scores(texts, references) if pairs else (None,) * 3
    return TextScores(
        reference=reference,
        n=len(pairs),
        total=total,
        bleu=bleu,
        chrf=chrf,
        rouge_l=_rouge_l(texts, references) if pairs else None,
        length_ratio=length_ratio,
        distinct_1=_distinct(written, 1),
        distinct_2=_distinct(written, 2),
        cut=share_of(reasons.count(RejectReason.LENGTH), total),
        empty=share_of(reasons.count(RejectReason.EMPTY), total),
        leaks=find_leaks(predictions, prompt=prompt, reasonings=reasonings),
        similarity=_similarity(texts, references, similarity_model)
        if similarity_model and pairs
        else None,
        similarity_model=similarity_model,
    )


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    Of scripts without spaces between words, each character is one.

    >>> words("Fog again: mind the step!")
    ['fog', 'again', 'mind', 'the', 'step']
    """
    # M: vowel signs of Indic scripts, which isalnum() takes for the end of a word.
    kept = "".join(
        mark if mark.isalnum() or unicodedata.category(mark)[0] == "M" else " "
        for mark in text.casefold()
    )
    return _UNSPACED.sub(r" \1 ", kept).split()


def _sacrebleu_scores(
    texts: list[str], references: list[str]
) -> tuple[Estimate, Estimate, Estimate | None]:
    """BLEU, chrF and the length ratio, resampled from the statistics of each text."""
    import numpy as np
    from sacrebleu.metrics import BLEU, CHRF

    def resampled(metric: Any) -> tuple[Any, Estimate]:
        # What its own bootstrap resamples, which tells the half width of the interval only. Both
        # methods are private: pyproject.toml keeps sacrebleu at 2.6.
        counts = np.array(metric._extract_corpus_statistics(texts, [references]))

        def score(chosen: Any) -> float:
            return float(metric._compute_score_from_stats(list(chosen.sum(axis=0))).score) / 100

        return counts, bootstrap(score, counts)

    counts, bleu = resampled(BLEU())
    _, chrf = resampled(CHRF())
    lengths = counts[:, :2]  # of the text and of its reference, in sacrebleu's tokens
    if not lengths[:, 1].all():
        return bleu, chrf, None

    def ratio(chosen: Any) -> float:
        ours, theirs = chosen.sum(axis=0)
        return float(ours / theirs)

    return bleu, chrf, bootstrap(ratio, lengths)


def sentence_chrf(text: str, reference: str) -> float:
    """Similarity of one text to its reference by sacrebleu's chrF, in [0, 1]."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(text, [reference]).score) / 100


def _rouge_l(texts: list[str], references: list[str]) -> Estimate | None:
    from rouge_score import rouge_scorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=False)
    # rouge-score knows words of a-z and 0-9 only; in other scripts it would call all texts alike.
    if not all(tokenizer.tokenize(truth) for truth in references):
        return None
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenizer)
    pairs = zip(references, texts, strict=True)
    return mean_estimate([scorer.score(truth, text)["rougeL"].fmeasure for truth, text in pairs])


def _similarity(texts: list[str], references: list[str], model: str) -> Estimate:
    encoder = _load_encoder(model)
    ours, theirs = (
        encoder.encode(part, normalize_embeddings=True, show_progress_bar=False)
        for part in (texts, references)
    )
    cosines = (ours * theirs).sum(axis=1)
    return mean_estimate(
        [float(one) if text else 0.0 for one, text in zip(cosines, texts, strict=True)]
    )


def _distinct(texts: Sequence[list[str]], size: int) -> Estimate | None:
    """Different runs of ``size`` words over all such runs: distinct-n of Li et al. (2016).

    A text that is drawn twice brings nothing new, so the bootstrap would place the interval too
    low. It is taken from halves drawn without repetition, whose spread around their mean is that
    of the whole (the delete-half jackknife: Shao and Wu, 1989).
    """
    import numpy as np

    numbers: dict[tuple[str, ...], int] = {}
    runs, owners = [], []
    for owner, text in enumerate(texts):
        for start in range(len(text) - size + 1):
            runs.append(numbers.setdefault(tuple(text[start : start + size]), len(numbers)))
            owners.append(owner)
    if not runs:
        return None
    value = len(numbers) / len(runs)
    if len(texts) < 2:
        return Estimate(value=value, interval=None)
    run_of, owner_of = np.array(runs), np.array(owners)
    random, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = np.zeros(len(texts), dtype=bool)
        chosen[random.permutation(len(texts))[: len(texts) // 2]] = True
        drawn = run_of[chosen[owner_of]]
        if len(drawn):
            seen = np.zeros(len(numbers), dtype=bool)
            seen[drawn] = True
            draws.append(seen.sum() / len(drawn))
    offset = value - float(np.mean(draws))
    low, high = (float(edge) + offset for edge in np.quantile(draws, [0.025, 0.975]))
    return Estimate(value=value, interval=Interval(low=max(low, 0.0), high=min(high, 1.0)))


def find_leaks(
    predictions: Sequence[Prediction], *, prompt: str, reasonings: Sequence[str | None] = ()
) -> Leaks:
    """Find the answers that quote the prompt or the teacher's reasoning.

    What the input says itself may be repeated. So may what the teacher's answer says: a teacher
    drafts its answer in its reasoning.
    """
    prompt_words = _joined(words(prompt))
    of_prompt, of_reasoning = [], []
    longest_of_prompt: list[str] = []
    longest_of_reasoning: list[str] = []
    known = reasonings or [None] * len(predictions)
    for item, reasoning in zip(predictions, known, strict=True):
        text = item.predicted or ""
        answer = words(text)
        asked = _joined(words(item.text))
        quote = longest_run(answer, prompt_words, allowed=[asked])
        longest_of_prompt = max(longest_of_prompt, quote, key=len)
        if len(quote) >= QUOTATION_WORDS:
            of_prompt.append(item.index)
        own = _joined(words(item.teacher or ""))
        quote = longest_run(answer, _joined(words(reasoning or "")), allowed=[asked, own])
        longest_of_reasoning = max(longest_of_reasoning, quote, key=len)
        marked = START_OF_THINKING in text or END_OF_THINKING in text
        if marked or len(quote) >= QUOTATION_WORDS:
            of_reasoning.append(item.index)
    return Leaks(
        words=QUOTATION_WORDS,
        prompt=share_of(len(of_prompt), len(predictions)),
        reasoning=share_of(len(of_reasoning), len(predictions)),
        reasoning_known=sum(reasoning is not None for reasoning in known),
        longest_of_prompt=" ".join(longest_of_prompt),
        longest_of_reasoning=" ".join(longest_of_reasoning),
        indices=tuple(sorted({*of_prompt, *of_reasoning})),
    )


def longest_run(answer: Sequence[str], source: str, *, allowed: Sequence[str] = ()) -> list[str]:
    """The longest run of words of ``answer`` that ``source`` has too.

    Args:
        answer: words.
        source: words between spaces, with a space at both ends.
        allowed: texts like ``source``; a run that stands in one of them whole does not count.
    """
    best: tuple[int, int] = (0, 0)
    start = 0
    for end in range(1, len(answer) + 1):
        # Whatever is inside a common run is one too, so the beginning only ever moves on.
        while start < end and (run := _joined(answer[start:end])) not in source:
            start += 1
        if end - start > best[1] - best[0] and not any(run in text for text in allowed):
            best = (start, end)
    return list(answer[slice(*best)])


def _joined(parts: Sequence[str]) -> str:
    return f" {' '.join(parts)} "
