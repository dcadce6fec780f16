"""A comparison as Markdown."""

from dataclasses import replace

from prompt_distillation.evaluation.gate import compare_results
from prompt_distillation.report.comparison_table import comparison_markdown


def test_who_alone_was_right_and_whether_chance_explains_it(make_result, comparison_of) -> None:
    teacher, student = make_result(20, wrong=[0, 5, 6, 7, 8]), make_result(20, wrong=[0, 1])
    comparison = comparison_of({"teacher": teacher, "student": student})

    paired = compare_results(student, teacher, where="the student's cell")
    shown = comparison_markdown(replace(comparison, student_against_teacher=paired))

    # Of five inputs that one alone has right, four against one: p = 2 * (5 + 1) / 2**5.
    assert (
        "Inputs that only the student gets right: 4; only the teacher: 1 "
        "(McNemar's exact test, p=0.375: no significant difference)."
    ) in shown.splitlines()


def test_no_test_where_one_of_the_two_was_not_judged(make_result, comparison_of) -> None:
    keyed = {"teacher": make_result(5), "student": make_result(5)}

    assert "McNemar" not in comparison_markdown(comparison_of(keyed))
