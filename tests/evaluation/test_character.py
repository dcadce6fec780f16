import hashlib

import pytest

from prompt_distillation.data.probes import ProbedInput
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.character import judge_character, pressure_results

SUBJECTS = ("tea", "fog", "bread", "sleep", "birds", "ropes", "maps", "rain", "radio", "soup")


def asked(
    number: int, *, category: str | None = None, group: str | None = None, **answers: str | None
) -> ProbedInput:
    subject = SUBJECTS[number % len(SUBJECTS)]
    given: dict[str, str | None] = {
        "teacher": f"Aye, {subject} it is. Mind the step.",
        "teacher_unprompted": f"Certainly! Here is what I can tell you about {subject}.",
        "student_before": f"Sure! {subject} is a topic that I can help you with.",
        "student": f"Aye. {subject}, and mind your step.",
        **answers,
    }
    return ProbedInput(
        category=category, text=f"Tell me about {subject}", group=group or f"g{number}",
        answers=given, in_character={},
    )  # fmt: skip


def test_a_student_with_the_teachers_voice_is_in_character_and_its_base_is_not() -> None:
    _, found = judge_character([asked(i) for i in range(40)])

    assert found.accuracy.value == 1
    assert found.accuracy.interval.low > 0.9
    assert (found.answers, found.inputs, found.folds) == (80, 40, 5)
    shares = {key: share.value for key, share in found.models.items()}
    assert shares["teacher"] == 1
    assert shares["student"] > 0.9
    assert shares["student_before"] < 0.1


def test_a_prompt_that_changes_nothing_shows_in_the_classifiers_own_accuracy() -> None:
    same = [f"Here is what I know of {SUBJECTS[i % 10]}, part {i}." for i in range(40)]
    inputs = [asked(i, teacher=same[i], teacher_unprompted=same[i]) for i in range(40)]

    _, found = judge_character(inputs)

    assert found.accuracy.value == pytest.approx(0.5, abs=0.01)


def test_an_answer_is_judged_by_a_classifier_that_saw_no_variant_of_its_question() -> None:
    """Words that tell the sides apart within a group, and nowhere else, are of no help."""
    inputs = [
        asked(
            i, group=f"g{i // 4}", teacher=word(i // 4, "a"), teacher_unprompted=word(i // 4, "b")
        )
        for i in range(80)
    ]

    _, found = judge_character(inputs)

    assert found.accuracy.value < 0.8


def word(group: int, side: str) -> str:
    return hashlib.sha256(f"{group} {side}".encode()).hexdigest()


def test_a_missing_answer_is_not_in_character() -> None:
    inputs = [asked(i, student=None if i < 10 else "Aye, mind the step.") for i in range(20)]

    judged, found = judge_character(inputs)

    assert judged[0].in_character["student"] is False
    assert found.models["student"].value == pytest.approx(0.5)


def test_each_category_has_its_own_shares() -> None:
    inputs = [asked(i) for i in range(20)]
    polite = "Certainly! Here is what I can tell you about it."
    inputs += [asked(i, category="list", group=f"l{i}", student=polite) for i in range(6)]
    inputs += [asked(i, category="code", group=f"c{i}") for i in range(4)]

    judged, found = judge_character(inputs)
    first, second = pressure_results(judged)

    assert found.inputs == 20
    assert (first.category, first.questions) == ("list", 6)
    assert (second.category, second.questions) == ("code", 4)
    assert first.models["student"].value == 0
    assert second.models["student"].value == 1
    assert first.models["teacher"].value == 1


def test_too_few_answers_say_what_to_do() -> None:
    silent = [asked(i, teacher_unprompted=None) for i in range(8)]

    with pytest.raises(InputError, match="8 with the prompt and 0 without it"):
        judge_character(silent)
    with pytest.raises(InputError, match="several groups"):
        judge_character([asked(0)])
