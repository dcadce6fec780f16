"""A comparison as Markdown."""

from dataclasses import replace

import pytest

from prompt_distillation.data.comparison import QueryCost
from prompt_distillation.data.intervals import Estimate
from prompt_distillation.evaluation.costs import make_bill
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


@pytest.fixture
def texts(make_result, comparison_of):
    """A teacher and a student of free text, with the figures of the reference's cost report."""
    comparison = comparison_of({"teacher": make_result(5), "student": make_result(5)})
    teacher, student = comparison.cells
    costs = [QueryCost(per_million_queries=price, basis="tokens") for price in (3093.0, 53.25)]
    cells = [
        replace(cell, accuracy=None, interval=None, chrf=Estimate(value=chrf, interval=None),
                cost=cost, prompt_tokens_per_query=tokens, completion_tokens_per_query=50.0)
        for cell, chrf, cost, tokens in zip(
            (teacher, student), (0.7, 0.45), costs, (641.0, 50.0), strict=True
        )
    ]  # fmt: skip
    bill = make_bill(*costs, training_cost=1.0, currency="USD")
    return replace(comparison, cells=tuple(cells), bill=bill)


def test_free_text_is_compared_by_chrf_instead_of_accuracy(texts) -> None:
    shown = comparison_markdown(texts)
    assert f"| | chrF to the {texts.truth} texts | n |" in shown
    assert "accuracy" not in shown.splitlines()[0]
    assert "| 0.45" in shown


def test_every_figure_of_texts_is_there_for_each_model(texts) -> None:
    teacher, student = texts.cells
    figures = {
        "ROUGE-L": Estimate(value=0.31, interval=None),
        "empty": Estimate(value=0.0, interval=None),
    }
    cells = (replace(teacher, text_scores={}), replace(student, text_scores=figures))
    shown = comparison_markdown(replace(texts, cells=cells)).splitlines()
    (line,) = (line for line in shown if line.startswith("| ROUGE-L"))
    assert line == f"| ROUGE-L | - | {figures['ROUGE-L'].shown} |"
    assert f"| figure of the texts (95 % interval) | {teacher.title} | {student.title} |" in shown


def test_tokens_money_break_even_and_return_are_in_the_terms_of_a_budget(texts) -> None:
    shown = comparison_markdown(texts)
    assert "100 tokens per query, in and out, instead of 691 (85.5% fewer)" in shown
    assert "A query costs 98.3% less with the student than with the teacher." in shown
    assert "pays for itself after 329 queries" in shown
    assert "| 1,000,000 | 3,093.00 | 53.25 | 3,039.75 | 3,039.8x | 36,477.0x |" in shown
