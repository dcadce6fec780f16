import random

import pytest

from prompt_distillation.evaluation.calibration import calibration, cascade, coverage


def test_ece_is_the_weighted_distance_of_the_bins() -> None:
    scored = [(0.95, True)] * 8 + [(0.95, False)] * 2 + [(0.55, True)] * 5 + [(0.55, False)] * 5

    result = calibration(scored)

    # bins: accuracy 0.8 at confidence 0.95, accuracy 0.5 at confidence 0.55
    assert result.expected_calibration_error == pytest.approx((0.15 + 0.05) / 2)
    assert [(b.low, b.high, b.n) for b in result.bins] == [(0.5, 0.6, 10), (0.9, 1.0, 10)]
    assert result.bins[1].accuracy == pytest.approx(0.8)


def test_honest_confidences_have_a_small_error() -> None:
    chance = random.Random(0)
    scored = [(p := chance.random(), chance.random() < p) for _ in range(20_000)]

    assert calibration(scored).expected_calibration_error < 0.02


def test_certainty_belongs_to_the_last_bin() -> None:
    assert calibration([(1.0, True)]).bins[0].high == 1.0


def test_coverage_goes_from_the_surest_to_all() -> None:
    points = coverage([(0.9, True), (0.5, False), (0.9, True), (0.7, False)])

    assert [(p.threshold, p.coverage, p.accuracy) for p in points] == [
        (0.9, 0.5, 1.0),
        (0.7, 0.75, pytest.approx(2 / 3)),
        (0.5, 1.0, 0.5),
    ]


def test_cascade_gives_the_student_what_it_can_without_loss(make_prediction) -> None:
    def item(confidence: float, student: bool, teacher: bool):
        return make_prediction(
            "fr", "fr" if student else "de", teacher="fr" if teacher else "de",
            teacher_asked=True, probabilities={"fr": confidence, "de": 0.0},
        )  # fmt: skip

    predictions = [
        item(0.9, True, True),
        item(0.8, True, False),  # the student wins one
        item(0.7, False, True),  # and gives it back: still as good as the teacher
        item(0.6, False, True),  # from here on the teacher is needed
        item(0.5, True, True),
    ]

    result = cascade(predictions)

    assert result is not None
    assert result.threshold == 0.7
    assert result.student_share == pytest.approx(3 / 5)
    assert result.accuracy == result.teacher_accuracy == pytest.approx(4 / 5)


def test_a_student_that_is_never_as_good_answers_nothing(make_prediction) -> None:
    predictions = [
        make_prediction("fr", "de", teacher="fr", teacher_asked=True, probabilities={"de": 0.9})
    ]

    result = cascade(predictions)

    assert result is not None
    assert (result.threshold, result.student_share, result.accuracy) == (None, 0.0, 1.0)


def test_no_cascade_without_a_teacher(make_prediction) -> None:
    assert cascade([make_prediction("fr", "fr", probabilities={"fr": 1.0})]) is None
