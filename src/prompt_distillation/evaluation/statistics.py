"""How sure a share is, and whether two of them differ: each formula with its source."""

from collections.abc import Sequence

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.data.results import Agreement, PairedTest


def macro_f1(truths: Sequence[str], predictions: Sequence[str | None]) -> float | None:
    """Mean F1 over the labels that occur in ``truths``; an answer of None is wrong."""
    from sklearn.metrics import f1_score

    if not truths:
        return None
    labels = sorted(set(truths))
    # scikit-learn wants texts; NUL is no label of any task.
    predicted = [answer if answer is not None else "\0" for answer in predictions]
    return float(f1_score(truths, predicted, labels=labels, average="macro", zero_division=0.0))


def agreement(truths: Sequence[str | None], predictions: Sequence[str | None]) -> Agreement:
    """How often ``predictions`` meet ``truths``; inputs without a truth are left out, counted."""
    pairs = [
        (truth, answer)
        for truth, answer in zip(truths, predictions, strict=True)
        if truth is not None
    ]
    correct = sum(truth == answer for truth, answer in pairs)
    return Agreement(
        n=len(pairs),
        correct=correct,
        accuracy=correct / len(pairs) if pairs else None,
        interval=wilson_interval(correct, len(pairs)),
        macro_f1=macro_f1([truth for truth, _ in pairs], [answer for _, answer in pairs]),
        left_out=len(truths) - len(pairs),
    )


def paired_test(
    truths: Sequence[str | None],
    first: Sequence[str | None],
    second: Sequence[str | None],
) -> PairedTest:
    """McNemar's test of two models on the same inputs, exact: the binomial of the discordant pairs.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions".

    Args:
        truths: a label per input; None leaves the input out.
        first: answers of one model, aligned with ``truths``.
        second: answers of the other.
    """
    from scipy.stats import binomtest

    only_first, only_second = [], []
    both_right = both_wrong = 0
    for position, (truth, one, two) in enumerate(zip(truths, first, second, strict=True)):
        if truth is None:
            continue
        match (one == truth, two == truth):
            case (True, True):
                both_right += 1
            case (False, False):
                both_wrong += 1
            case (True, False):
                only_first.append(position)
            case _:
                only_second.append(position)
    discordant = len(only_first) + len(only_second)
    p_value = float(binomtest(len(only_first), discordant).pvalue) if discordant else 1.0
    return PairedTest(
        n=both_right + both_wrong + discordant,
        both_right=both_right,
        both_wrong=both_wrong,
        only_first_right=tuple(only_first),
        only_second_right=tuple(only_second),
        p_value=p_value,
    )
