"""Confidence: do the student's probabilities mean what they say, and what can be built on them.

Calibration: is it right as often as it is sure? Coverage: how accurate are the answers above a
confidence? Cascade: student first, the teacher where the student is unsure; from which threshold,
and how good is that?
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.data.results import (
    Calibration,
    Cascade,
    CascadeCheck,
    CascadePoint,
    Confidence,
    CoveragePoint,
    Prediction,
    ReliabilityBin,
)

BINS = 10


def confidence_results(
    predictions: Sequence[Prediction], teacher_answers: Mapping[int, str | None] | None = None
) -> Confidence | None:
    """What the probabilities of ``predictions`` show; None where labels were not scored."""
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

    Each input is ``(confidence in [0, 1], right or wrong)``; there is at least one.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One input that both models answered."""

    confidence: float
    student_right: bool
    teacher_right: bool
    group: str


def trials(
    scored: Sequence[Prediction], teacher_answers: Mapping[int, str | None]
) -> tuple[Trial, ...]:
    """The inputs that have a gold label, a score, and an answer of the teacher to hold against."""
    return tuple(
        Trial(
            confidence=max(item.label_probabilities.values()),
            student_right=item.predicted == item.gold,
            teacher_right=teacher_answers[item.index] == item.gold,
            group=item.group,
        )
        for item in scored
        if item.label_probabilities and item.gold is not None and item.index in teacher_answers
    )


def cascade(tried: Sequence[Trial]) -> Cascade | None:
    """The threshold at which the cascade is as right as the teacher alone.

    Of all thresholds that reach the teacher's accuracy against gold, the one at which the student
    answers most. On the inputs it was chosen on it looks a little better than it is, so it is also
    checked, see `check`.
    """
    if not tried:
        return None
    curve = _curve(tried)
    of_teacher = sum(trial.teacher_right for trial in tried) / len(tried)
    best = _choose(curve)
    return Cascade(
        n=len(tried),
        threshold=best.threshold,
        student_share=best.student_share,
        accuracy=best.accuracy,
        teacher_accuracy=of_teacher,
        check=check(tried),
        curve=curve,
    )


def check(tried: Sequence[Trial]) -> CascadeCheck | None:
    """How the cascade does on inputs that had no say in its threshold.

    The groups are cut into two halves; each half is answered with the threshold that was chosen on
    the other, so that every input counts once.
    """
    halves = _halves(tried)
    if not all(halves):
        return None
    answered = 0
    ours: list[bool] = []
    for own, other in (halves, halves[::-1]):
        threshold = _choose(_curve(other)).threshold
        for trial in own:
            alone = threshold is not None and trial.confidence >= threshold
            answered += alone
            ours.append(trial.student_right if alone else trial.teacher_right)
    theirs = [trial.teacher_right for half in halves for trial in half]
    pairs = list(zip(ours, theirs, strict=True))
    return CascadeCheck(
        n=len(tried),
        student_share=answered / len(tried),
        accuracy=sum(ours) / len(tried),
        interval=wilson_interval(sum(ours), len(tried)),
        only_cascade_right=pairs.count((True, False)),
        only_teacher_right=pairs.count((False, True)),
    )


def _halves(tried: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Cut by group, in an order that has nothing to do with the file's."""
    names = sorted(
        {trial.group for trial in tried},
        key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest(),
    )
    first = set(names[::2])
    return (
        [trial for trial in tried if trial.group in first],
        [trial for trial in tried if trial.group not in first],
    )


def _curve(tried: Sequence[Trial]) -> tuple[CascadePoint, ...]:
    """Every threshold that makes a difference, from the teacher answering all downwards."""
    right, taken = sum(trial.teacher_right for trial in tried), 0
    points = [CascadePoint(threshold=None, student_share=0.0, accuracy=right / len(tried))]
    surest_first = sorted(tried, key=attrgetter("confidence"), reverse=True)
    for threshold, members in groupby(surest_first, key=attrgetter("confidence")):
        for trial in members:
            right += trial.student_right - trial.teacher_right
            taken += 1
        points.append(
            CascadePoint(
                threshold=threshold,
                student_share=taken / len(tried),
                accuracy=right / len(tried),
            )
        )
    return tuple(points)


def _choose(curve: Sequence[CascadePoint]) -> CascadePoint:
    """The point at which the student answers most, of those no worse than the teacher alone."""
    return [point for point in curve if point.accuracy >= curve[0].accuracy][-1]
