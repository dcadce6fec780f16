"""Confidence: do the student's probabilities mean what they say, and what can be built on them."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from prompt_distillation.evaluation.confidence import (
    Calibration,
    Cascade,
    Confidence,
    CoveragePoint,
    ReliabilityBin,
)
from prompt_distillation.evaluation.schema import Prediction
from prompt_distillation.intervals import wilson_interval

BINS = 10


def confidence_results(predictions: Sequence[Prediction]) -> Confidence | None:
    """What the probabilities of ``predictions`` show; None where labels were not scored."""
    scored = [
        (max(item.label_probabilities.values()), item.correct)
        for item in predictions
        if item.label_probabilities and item.correct is not None
    ]
    if not scored:
        return None
    return Confidence(
        calibration=calibration(scored), coverage=coverage(scored), cascade=cascade(predictions)
    )


def calibration(scored: Sequence[tuple[float, bool]]) -> Calibration:
    """Reliability in `BINS` bins of equal width, and the expected calibration error.

    ECE is the mean over inputs of the distance between their bin's accuracy and its mean
    confidence: Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 3.

    Args:
        scored: ``(confidence in [0, 1], right or wrong)`` per input; not empty.
    """
    bins, error = [], 0.0
    ordered = sorted(((min(int(conf * BINS), BINS - 1), conf, right) for conf, right in scored))
    for number, members in groupby(ordered, key=itemgetter(0)):
        rows = list(members)
        correct = sum(right for _, _, right in rows)
        confidence, accuracy = sum(conf for _, conf, _ in rows) / len(rows), correct / len(rows)
        error += abs(accuracy - confidence) * len(rows) / len(scored)
        bins.append(
            ReliabilityBin(
                low=number / BINS,
                high=(number + 1) / BINS,
                n=len(rows),
                confidence=confidence,
                accuracy=accuracy,
                interval=wilson_interval(correct, len(rows)),
            )
        )
    return Calibration(n=len(scored), expected_calibration_error=error, bins=tuple(bins))


def coverage(scored: Sequence[tuple[float, bool]]) -> tuple[CoveragePoint, ...]:
    """Accuracy over the inputs at or above each confidence, the surest first."""
    points, correct, taken = [], 0, 0
    for threshold, members in groupby(sorted(scored, reverse=True), key=itemgetter(0)):
        rows = list(members)
        taken += len(rows)
        correct += sum(right for _, right in rows)
        points.append(
            CoveragePoint(
                threshold=threshold, coverage=taken / len(scored), accuracy=correct / taken
            )
        )
    return tuple(points)


def cascade(predictions: Sequence[Prediction]) -> Cascade | None:
    """The threshold at which student-first, teacher-if-unsure is as right as the teacher alone.

    Of all thresholds that reach the teacher's accuracy against gold, the one at which the student
    answers most. It is chosen on these very inputs, so the figure is a little rosy: check it on
    others before it is put to work.

    Returns:
        None where the labels were not scored, or no input has both gold and a teacher's answer.
    """
    rows = sorted(
        (
            (max(item.label_probabilities.values()), item.predicted == item.gold,
             item.teacher == item.gold)
            for item in predictions
            if item.label_probabilities and item.gold is not None and item.teacher_asked
        ),
        reverse=True,
    )  # fmt: skip
    if not rows:
        return None
    of_teacher = sum(teacher for _, _, teacher in rows)
    best: tuple[float | None, int, int] = (None, 0, of_teacher)
    right, taken = of_teacher, 0
    for threshold, members in groupby(rows, key=itemgetter(0)):
        for _, student, teacher in members:
            right += student - teacher
            taken += 1
        if right >= of_teacher:
            best = (threshold, taken, right)
    threshold_found, answered, correct = best
    return Cascade(
        n=len(rows),
        threshold=threshold_found,
        student_share=answered / len(rows),
        accuracy=correct / len(rows),
        teacher_accuracy=of_teacher / len(rows),
    )
