import random

import pytest

from prompt_distillation.evaluation.confidence import (
    Trial,
    calibration,
    cascade,
    check,
    confidence_results,
    coverage,
    trials,
)


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


def trial(confidence: float, student: bool, teacher: bool, group: str = "g") -> Trial:
    return Trial(confidence=confidence, student_right=student, teacher_right=teacher, group=group)


def many(count: int, *, seed: int) -> list[Trial]:
    """Two models that are right by chance, the teacher a little more; confidence says nothing."""
    chance = random.Random(seed)
    return [
        trial(
            chance.random(), chance.random() < 0.85, chance.random() < 0.88, group=f"group {number}"
        )
        for number in range(count)
    ]


def test_the_student_gets_what_it_can_without_loss() -> None:
    tried = [
        trial(0.9, True, True),
        trial(0.8, True, False),  # the student wins one
        trial(0.7, False, True),  # and gives it back: still as good as the teacher
        trial(0.6, False, True),  # from here on the teacher is needed
        trial(0.5, True, True),
    ]

    found = cascade(tried)

    assert found is not None
    assert found.threshold == 0.7
    assert found.student_share == pytest.approx(3 / 5)
    assert found.accuracy == found.teacher_accuracy == pytest.approx(4 / 5)
    assert [point.accuracy for point in found.curve] == pytest.approx(
        [0.8, 0.8, 1.0, 0.8, 0.6, 0.6]
    )
    assert found.check is None  # one group: there are no two halves


def test_a_student_that_is_never_as_good_answers_nothing() -> None:
    found = cascade([trial(0.9, False, True)])

    assert found is not None
    assert (found.threshold, found.student_share, found.accuracy) == (None, 0.0, 1.0)


def test_a_student_that_is_better_throughout_answers_everything() -> None:
    found = cascade([trial(0.9, True, True, "a"), trial(0.4, True, False, "b")])

    assert found is not None
    assert (found.threshold, found.student_share, found.accuracy) == (0.4, 1.0, 1.0)


def test_the_check_counts_every_input_once_and_may_fall_below_the_teacher() -> None:
    below = 0
    for seed in range(20):
        tried = many(200, seed=seed)
        found = cascade(tried)
        assert found is not None
        assert found.check is not None
        assert found.check.n == 200
        assert found.accuracy >= found.teacher_accuracy
        won = found.check.only_cascade_right - found.check.only_teacher_right
        assert found.check.accuracy == pytest.approx(found.teacher_accuracy + won / 200)
        below += found.check.accuracy < found.teacher_accuracy
    assert below > 0


def test_halves_do_not_cut_groups() -> None:
    # Halves that cut the groups would both hold wrong answers, and leave everything to the teacher.
    tried = [trial(0.9, group == "right", True, group) for group in ("right", "wrong") * 4]

    found = check(tried)

    assert found is not None
    assert (found.student_share, found.accuracy) == (0.5, 0.5)
    assert (found.only_cascade_right, found.only_teacher_right) == (0, 4)
    assert check([item for item in tried if item.group == "right"]) is None


def test_only_what_both_answered_and_gold_judges_counts(make_prediction) -> None:
    scored = [
        make_prediction("fr", "fr", index=0, probabilities={"fr": 0.8, "de": 0.2}),
        make_prediction(None, "fr", index=1, probabilities={"fr": 0.8, "de": 0.2}),
        make_prediction("fr", "de", index=2, probabilities={"fr": 0.4, "de": 0.6}),
        make_prediction("fr", "fr", index=3),
    ]

    found = trials(scored, {0: "de", 1: "fr", 3: "fr"})

    assert found == (Trial(confidence=0.8, student_right=True, teacher_right=False, group="g0"),)
    assert cascade(()) is None
