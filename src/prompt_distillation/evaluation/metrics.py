"""From predictions to what they show: accuracy, confusion, agreement, usage."""

from collections import Counter
from collections.abc import Mapping, Sequence

from prompt_distillation.data.intervals import Estimate, mean_estimate, wilson_interval
from prompt_distillation.data.results import (
    UNPARSEABLE,
    Agreement,
    ConfusionMatrix,
    ErrorExample,
    LabelAccuracy,
    PairedTest,
    Prediction,
    Summary,
    Truths,
    Usage,
    WorstLabel,
)
from prompt_distillation.evaluation.text_scores import sentence_chrf

ERROR_EXAMPLES = 3
WORST_LABELS = 5


def summarise(predictions: Sequence[Prediction], *, are_labels: bool = True) -> Summary:
    """The headline of ``predictions``, which must not be empty; only labels have a macro-F1."""
    judged = [item for item in predictions if item.correct is not None]
    correct = sum(item.correct is True for item in judged)
    parsed = sum(item.predicted is not None for item in predictions)
    return Summary(
        total_samples=len(predictions),
        predicted=parsed,
        unparseable=len(predictions) - parsed,
        parse_rate=parsed / len(predictions),
        accuracy=correct / len(judged) if judged else None,
        correct=correct,
        evaluated=len(judged),
        left_out=sum(item.ground_truth is None for item in predictions),
        accuracy_interval=wilson_interval(correct, len(judged)),
        macro_f1=macro_f1(
            [item.ground_truth or "" for item in judged], [item.predicted for item in judged]
        )
        if are_labels
        else None,
    )


def confusion_matrix(predictions: Sequence[Prediction], labels: Sequence[str]) -> ConfusionMatrix:
    """Count truths against predictions.

    Args:
        predictions: those without a ground truth are left out.
        labels: the task's; the matrix has them sorted, and `UNPARSEABLE` last.
    """
    counts = Counter(
        (item.ground_truth, item.predicted if item.predicted is not None else UNPARSEABLE)
        for item in predictions
        if item.ground_truth is not None
    )
    names = (*sorted(labels), UNPARSEABLE)
    rows = tuple(tuple(counts[truth, answer] for answer in names) for truth in names)
    return ConfusionMatrix(
        labels=names,
        matrix_2d=rows,
        matrix_dict={
            truth: dict(zip(names, row, strict=True))
            for truth, row in zip(names, rows, strict=True)
        },
    )


def per_label_results(
    matrix: ConfusionMatrix, predictions: Sequence[Prediction]
) -> dict[str, LabelAccuracy]:
    """Results of each label that occurs in the truth, worst first; ties by label."""
    from sklearn.metrics import precision_recall_fscore_support

    judged = [item for item in predictions if item.ground_truth is not None]
    labels = sorted({item.ground_truth for item in judged if item.ground_truth is not None})
    if not labels:
        return {}
    precision, recall, f1, support = precision_recall_fscore_support(
        [item.ground_truth for item in judged],
        [item.predicted if item.predicted is not None else UNPARSEABLE for item in judged],
        labels=labels,
        zero_division=0.0,
    )
    results = {}
    for position, label in enumerate(labels):
        total, correct = int(support[position]), matrix.matrix_dict[label][label]
        interval = wilson_interval(correct, total)
        assert interval is not None, "a label of the truth occurs in the truth"
        results[label] = LabelAccuracy(
            accuracy=correct / total,
            correct=correct,
            total=total,
            interval=interval,
            precision=float(precision[position]),
            recall=float(recall[position]),
            f1=float(f1[position]),
            error_examples=_error_examples(judged, label),
        )
    return dict(sorted(results.items(), key=lambda pair: (pair[1].accuracy, pair[0])))


def _error_examples(judged: Sequence[Prediction], label: str) -> tuple[ErrorExample, ...]:
    wrong = (
        ErrorExample(index=item.index, text=item.text, predicted=item.predicted)
        for item in judged
        if item.ground_truth == label and item.predicted != label
    )
    return tuple(example for example, _ in zip(wrong, range(ERROR_EXAMPLES), strict=False))


def worst_labels(results: Mapping[str, LabelAccuracy]) -> tuple[WorstLabel, ...]:
    """The labels with the lowest accuracy; those without an error are left out."""
    flawed = [(label, result) for label, result in results.items() if result.correct < result.total]
    return tuple(
        WorstLabel(
            language=label, accuracy=result.accuracy, correct=result.correct, total=result.total
        )
        for label, result in flawed[:WORST_LABELS]
    )


def three_truths(predictions: Sequence[Prediction], *, are_labels: bool = True) -> Truths:
    """The model and the teacher against gold, the model against the teacher.

    A teacher that was asked and gave no answer is wrong against gold, as a student would be; an
    input that it was not asked is left out.
    """
    gold = [item.gold for item in predictions]
    student = [item.predicted for item in predictions]
    teacher = [item.teacher for item in predictions]
    gold_where_asked = [item.gold if item.teacher_asked else None for item in predictions]
    asked = any(item.teacher_asked for item in predictions)
    both = asked and any(truth is not None for truth in gold_where_asked)
    return Truths(
        student_gold=agreement(gold, student, are_labels=are_labels),
        teacher_gold=agreement(gold_where_asked, teacher, are_labels=are_labels) if both else None,
        student_teacher=agreement(teacher, student, are_labels=are_labels) if asked else None,
        student_against_teacher=paired_test(gold_where_asked, student, teacher) if both else None,
    )


def macro_f1(truths: Sequence[str], predictions: Sequence[str | None]) -> float | None:
    """Mean F1 over the labels that occur in ``truths``; an answer of None is wrong."""
    from sklearn.metrics import f1_score

    if not truths:
        return None
    labels = sorted(set(truths))
    # scikit-learn wants texts; NUL is no label of any task.
    predicted = [answer if answer is not None else "\0" for answer in predictions]
    return float(f1_score(truths, predicted, labels=labels, average="macro", zero_division=0.0))


def agreement(
    truths: Sequence[str | None], predictions: Sequence[str | None], *, are_labels: bool = True
) -> Agreement:
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
        macro_f1=macro_f1([truth for truth, _ in pairs], [answer for _, answer in pairs])
        if are_labels
        else None,
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


def usage(
    predictions: Sequence[Prediction],
    *,
    engine: str,
    run_seconds: float,
    startup_seconds: float,
) -> Usage:
    """Tokens and time of a run; ``predictions`` must not be empty."""
    count = len(predictions)
    prompt_tokens = sum(item.prompt_tokens or 0 for item in predictions)
    completion_tokens = sum(item.completion_tokens or 0 for item in predictions)
    cached = [item.cached_tokens for item in predictions if item.cached_tokens is not None]
    latencies = [item.seconds for item in predictions if item.seconds is not None]
    return Usage(
        engine=engine,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        prompt_tokens_per_query=prompt_tokens / count,
        completion_tokens_per_query=completion_tokens / count,
        cached_tokens=sum(cached) if cached else None,
        run_seconds=run_seconds,
        startup_seconds=startup_seconds,
        seconds_per_query=run_seconds / count,
        queries_per_second=count / run_seconds,
        latency_seconds_mean=sum(latencies) / len(latencies) if latencies else None,
    )


def held_out_scores(predictions: Sequence[Prediction]) -> dict[int, float]:
    """Index of each input with a known answer -> 1 or 0, or of texts the chrF."""
    return {
        item.index: sentence_chrf(item.predicted or "", item.ground_truth)
        if item.correct is None
        else float(item.correct)
        for item in predictions
        if item.ground_truth is not None
    }


def paired_gain(before: Mapping[int, float], after: Mapping[int, float]) -> Estimate:
    """The mean difference of two students' scores, with a 95 % bootstrap interval over inputs."""
    return mean_estimate([after[index] - before[index] for index in sorted(before)])
