import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from prompt_distillation.data.results import Prediction
from prompt_distillation.data.text import safe_for_terminal, shorten
from prompt_distillation.evaluation.metrics import confusion_matrix
from prompt_distillation.report.terminal import Stream, print_confusion_matrix, print_summary


def make_console(*, colour: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=colour, color_system="standard" if colour else None,
        highlight=False, markup=False, emoji=False, width=80,
    )  # fmt: skip
    return console, out


def prediction(text: str, truth: str | None, answer: str | None) -> Prediction:
    return Prediction(
        index=0, text=text, group="g", predicted=answer, ground_truth=truth,
        correct=None if truth is None else truth == answer,
    )  # fmt: skip


def test_stream_is_the_documented_one() -> None:
    console, out = make_console()
    stream = Stream(console)
    for _ in range(5):
        stream.show(prediction("And he said, Mama, I'm home.", "en", "en"), 2100)
    stream.show(prediction("Y él dijo: Mamá, estoy en casa.", "en", "es"), 2100)
    stream.show(prediction("Et il a dit, maman, je suis à la maison.", "fr", "fr"), 2100)
    stream.finish()

    lines = out.getvalue().splitlines()

    assert lines[0] == "Evaluating model..."
    assert lines[1] == "=" * 80
    assert lines[2] == (
        "✓ [   1/2100] Pred: en | GT: en | Acc: 1/1 (100.0%) | And he said, Mama, I'm home."
    )
    assert lines[7] == (
        "✗ [   6/2100] Pred: es | GT: en | Acc: 5/6 ( 83.3%) | Y él dijo: Mamá, estoy en casa."
    )
    assert lines[8] == (
        "✓ [   7/2100] Pred: fr | GT: fr | Acc: 6/7 ( 85.7%) | "
        "Et il a dit, maman, je suis à la maison."
    )
    assert lines[-1] == "Evaluation completed: 7 samples processed"


def test_no_answer_and_no_truth_have_signs_of_their_own() -> None:
    console, out = make_console()
    stream = Stream(console)
    stream.show(prediction("a", "en", None), 2)
    stream.show(prediction("b", None, "en"), 2)

    lines = out.getvalue().splitlines()

    assert lines[2] == "✗ [1/2] Pred: ? | GT: en | Acc: 0/1 (  0.0%) | a"
    assert lines[3] == "· [2/2] Pred: en | GT: - | Acc: 0/1 (  0.0%) | b"


def test_no_accuracy_is_shown_before_anything_was_judged() -> None:
    console, out = make_console()
    Stream(console).show(prediction("b", None, "en"), 1)

    assert out.getvalue().splitlines()[2] == "· [1/1] Pred: en | GT: - | Acc: - | b"


def test_colours_only_where_the_terminal_allows() -> None:
    plain, plain_out = make_console()
    coloured, coloured_out = make_console(colour=True)
    for console in (plain, coloured):
        Stream(console).show(prediction("x", "en", "de"), 1)

    assert "\x1b[" not in plain_out.getvalue()
    assert "\x1b[31m" in coloured_out.getvalue()


def test_hostile_input_reaches_the_terminal_as_text() -> None:
    console, out = make_console(colour=True)
    hostile = "\x1b[2J\x1b]0;owned\x07 [red]not markup[/red] :smile: \u202eevil\nsecond line"
    Stream(console).show(prediction(hostile, "en", "en"), 1)

    shown = out.getvalue()

    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "[red]not markup[/red] :smile:" in shown
    assert len(shown.splitlines()) == 3


def test_safe_text_keeps_what_scripts_need() -> None:
    for text in ["می\u200cخواهم", "क्\u200dष", "👩\u200d💻", "Xin chào", "你好", "ﷺ", "e\u0301"]:
        assert safe_for_terminal(text) == text
    assert safe_for_terminal("a\tb\u2028c\u200f\x00") == r"a b c\u200f\x00"
    assert safe_for_terminal("\ud800") == r"\ud800"


def test_shorten_marks_what_it_cut() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "abc..."


def test_matrix_has_rows_of_truth_a_column_of_no_answers_and_totals() -> None:
    console, out = make_console()
    predictions = [prediction("t", "ar", "ar")] * 141 + [prediction("t", "ar", "ur")] * 5
    predictions += [prediction("t", "ur", None)] * 2

    print_confusion_matrix(console, confusion_matrix(predictions, ["ar", "de", "ur"]))

    assert out.getvalue().splitlines()[1:] == [
        "       ar  de  ur   ?  | Total",
        "  " + "-" * 28,
        "ar |  141   .   5   .  |  146",
        "de |    .   .   .   .  |    0",
        "ur |    .   .   .   2  |    2",
    ]


def test_a_matrix_of_many_labels_shows_the_confused_ones() -> None:
    console, out = make_console()
    labels = [f"intent_{number}" for number in range(77)]
    predictions = [prediction("t", label, label) for label in labels]
    predictions += [prediction("t", "intent_3", "intent_8")]

    print_confusion_matrix(console, confusion_matrix(predictions, labels))

    lines = out.getvalue().splitlines()
    assert "intent_3" in lines[3]
    assert len(lines) == 5
    assert lines[-1].startswith("1 of 77 labels shown")


def printed(result) -> str:
    console, out = make_console()
    print_summary(console, result, output_file=Path("result.json"))
    return out.getvalue()


def test_a_model_that_answers_is_said_to_answer_directly(make_result) -> None:
    shown = printed(make_result(10, unparsed=range(5)))

    assert "responds directly without the prompt" in shown
    assert "mean latency 0.100 s" in shown


def test_a_model_whose_answers_cannot_be_read_is_not_praised(make_result) -> None:
    shown = printed(make_result(10, unparsed=range(6)))

    assert "responds directly" not in shown
    assert "Unparseable responses: 6" in shown
    assert "no_label: 6" in shown


def test_free_text_is_compared_or_left_out_but_never_both(make_text_result) -> None:
    """Texts with a reference are counted as compared, and only the others as not compared."""
    all_known = printed(make_text_result(references=14, total=14))
    some_known = printed(make_text_result(references=10, total=14))
    none_known = printed(make_text_result(references=0, total=14))

    assert "Against the teacher texts (n=14):" in all_known
    assert "Not compared" not in all_known
    assert "Against the teacher texts (n=10):" in some_known
    assert "Not compared, no teacher text: 4" in some_known
    assert "no input has a teacher text" in none_known
    for shown in (all_known, some_known, none_known):
        assert "Accuracy" not in shown
        assert "confusion matrix" not in shown


def test_missing_truths_are_counted(make_result) -> None:
    result = make_result(10)
    summary = replace(result.summary, evaluated=7, left_out=3)

    assert "Not evaluated, no gold answer: 3" in printed(replace(result, summary=summary))
    summary = replace(summary, evaluated=0, left_out=10, accuracy=None, accuracy_interval=None)
    shown = printed(replace(result, summary=summary))
    assert "Overall Accuracy: - (no input has a gold answer)" in shown
    assert "Correct:" not in shown
    assert "Agreement" not in shown


def test_many_labels_without_a_confusion_are_a_sentence() -> None:
    console, out = make_console()
    labels = [f"label {i}" for i in range(77)]
    matrix = confusion_matrix([prediction("x", label, label) for label in labels], labels)

    print_confusion_matrix(console, matrix)

    assert "No label of 77 is confused with another." in out.getvalue()
