import random

import pytest

from prompt_distillation.evaluation.cascade import Trial, cascade, check, trials


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
