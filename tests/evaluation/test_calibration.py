import random

import pytest

from prompt_distillation.evaluation.calibration import calibration, confidence_results, coverage


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


def test_without_other_answers_the_cascade_falls_back_to_the_labels_of_the_data(
    make_prediction,
) -> None:
    scored = [
        make_prediction(
            "fr", "fr", index=number, teacher="de", teacher_asked=True,
            probabilities={"fr": 0.9, "de": 0.1},
        )
        for number in range(4)
    ]  # fmt: skip

    by_data = confidence_results(scored)
    by_cell = confidence_results(scored, {0: "fr", 1: "fr"})

    assert by_data is not None
    assert by_data.cascade is not None
    assert by_data.cascade.teacher_accuracy == 0.0
    assert by_cell is not None
    assert by_cell.cascade is not None
    assert (by_cell.cascade.n, by_cell.cascade.teacher_accuracy) == (2, 1.0)
    assert confidence_results([make_prediction("fr", "fr")]) is None
