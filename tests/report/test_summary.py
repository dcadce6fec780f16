"""The end of an evaluation on the screen."""

import io
from pathlib import Path

from rich.console import Console

from prompt_distillation.report.summary import print_summary


def printed(result) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, result, output_file=Path("result.json"))
    return console.file.getvalue()


def test_a_model_that_answers_is_said_to_answer_directly(make_result) -> None:
    shown = printed(make_result(10, unparsed=range(5)))

    assert "responds directly without the prompt" in shown
    assert "mean latency 0.100 s" in shown


def test_a_model_whose_answers_cannot_be_read_is_not_praised(make_result) -> None:
    shown = printed(make_result(10, unparsed=range(6)))

    assert "responds directly" not in shown
    assert "Unparseable responses: 6" in shown
    assert "no_label: 6" in shown
