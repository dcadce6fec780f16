"""Confidence: do the student's probabilities mean what they say, and what can be built on them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.data.results import (
    Calibration,
    Confidence,
    CoveragePoint,
    Prediction,
    ReliabilityBin,
)
from prompt_distillation.evaluation.cascade import cascade, trials

BINS = 10


def confidence_results(
    predictions: Sequence[Prediction], teacher_answers: Mapping[int, str | None] | None = None
) -> Confidence | None:
    """What the probabilities of ``predictions`` show; None where labels were not scored.

    Args:
        predictions: of the student.
        teacher_answers: position in the test file -> the teacher's answer, for the cascade; None:
            what the teacher answered when it labelled the data.
    """
    scored = [
        (max(item.label_probabilities.values()), item.correct)
        for item in predictions
        if item.label_probabilities and item.correct is not None
    ]
    if not scored:
        return None
    if teacher_answers is None:
        teacher_answers = {item.index: item.teacher for item in predictions if item.teacher_asked}
    return Confidence(
        calibration=calibration(scored),
        coverage=coverage(scored),
        cascade=cascade(trials(predictions, teacher_answers)),
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
