"""An evaluation on the screen: a line per input as it comes, then the tables."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prompt_distillation.data.intervals import Interval
from prompt_distillation.data.results import (
    UNPARSEABLE,
    ConfusionMatrix,
    LabelResult,
    Prediction,
    Result,
    WorstLabel,
)
from prompt_distillation.data.text import safe_for_terminal, shorten

RULE = "=" * 80
SHORT_RULE = "=" * 60
GOOD, FAIR = 0.9, 0.5
STREAM_TEXT_LENGTH = 70
EXAMPLE_TEXT_LENGTH = 50
MAX_MATRIX_LABELS = 30


def make_console() -> Console:
    """A console on stdout: colours on a terminal, plain text in a pipe."""
    return Console(highlight=False, markup=False, emoji=False)


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share as people read it; a dash where there is none."""
    return "-" if share is None else f"{share:.{digits}%}"


def with_interval(share: float | None, interval: Interval | None, *, digits: int = 1) -> str:
    """``95.2% (95% CI 94.2-96.0%)``."""
    if share is None or interval is None:
        return "-"
    low, high = interval.low * 100, interval.high * 100
    return f"{share:.{digits}%} (95% CI {low:.{digits}f}-{high:.{digits}f}%)"


def with_bounds(share: float | None, interval: Interval | None) -> str:
    """``95.2% (94.2-96.0)``, under a heading that says what the bounds are."""
    if share is None or interval is None:
        return "-"
    return f"{share:.1%} ({interval.low * 100:.1f}-{interval.high * 100:.1f})"


def money(amount: float) -> str:
    """Two decimals, and below one unit two digits that say something: ``1,234.50``, ``0.0031``."""
    if amount == 0 or abs(amount) >= 1:
        return f"{amount:,.2f}"
    decimals = max(2, 1 - math.floor(math.log10(abs(amount))))
    return f"{amount:.{decimals}f}"


class Stream:
    """Prints predictions as they come, and keeps the running accuracy."""

    def __init__(self, console: Console, *, total: int, quiet: bool = False) -> None:
        self._console, self._total, self._quiet = console, total, quiet
        self._shown = self._correct = self._judged = 0

    def show(self, prediction: Prediction) -> None:
        """Print one prediction's line; before the first, the heading."""
        if not self._shown:
            print_lines(self._console, ["Evaluating model...", RULE])
        self._shown += 1
        if not self._quiet:
            _line(self._console, self._text(prediction))

    def _text(self, prediction: Prediction) -> Text:
        mark, style = "·", "dim"
        if prediction.correct is not None:
            self._judged += 1
            self._correct += prediction.correct
            mark, style = ("✓", "green") if prediction.correct else ("✗", "red")
        share = 100 * self._correct / self._judged if self._judged else 0.0
        width = len(str(self._total))
        answer = UNPARSEABLE if prediction.predicted is None else prediction.predicted
        truth = "-" if prediction.ground_truth is None else prediction.ground_truth
        text = Text(f"{mark} ", style=style)
        text.append(f"[{self._shown:>{width}}/{self._total}]", style="dim")
        text.append(f" Pred: {_short(answer)}", style=style)
        text.append(f" | GT: {_short(truth)}", style="default")
        text.append(f" | Acc: {self._correct}/{self._judged} ({share:5.1f}%) | ", style="default")
        text.append(_short(prediction.text, STREAM_TEXT_LENGTH), style="default")
        return text

    def finish(self) -> None:
        """Print the closing line."""
        _line(self._console, RULE)
        _line(self._console, f"Evaluation completed: {self._shown} samples processed")


def print_result(console: Console, result: Result, *, output_file: Path) -> None:
    """Print everything that follows the stream, in the order in which people read it."""
    # Late, because the summary's module takes the helpers of this one.
    from prompt_distillation.report.summary import print_summary

    if result.confusion_matrix is not None:
        _heading(console, "CONFUSION MATRIX")
        print_confusion_matrix(console, result.confusion_matrix)
    if result.per_language_accuracy:
        _heading(console, "PER-LANGUAGE ACCURACY")
        for label, label_result in result.per_language_accuracy.items():
            _print_label(console, label, label_result)
        _print_worst(console, result)
    print_summary(console, result, output_file=output_file)


def print_confusion_matrix(console: Console, matrix: ConfusionMatrix) -> None:
    """Print counts: rows are the truth, columns the prediction, a dot for none."""
    rows, columns, note = _shown_labels(matrix)
    width = max(4, 2 + max(len(label) for label in columns))
    margin = max(2, max((len(label) for label in rows), default=2))
    header = " " * (margin + 3) + "".join(f"{label:>{width}}" for label in columns) + "  | Total"
    _line(console, "")
    _line(console, header)
    _line(console, "  " + "-" * (len(header) - 2))
    for truth in rows:
        text = Text(f"{truth:<{margin}} | ")
        for answer in columns:
            count = matrix.matrix_dict[truth][answer]
            style = "dim" if not count else "green" if truth == answer else "red"
            text.append(f"{count or '.':>{width}}", style=style)
        text.append(f"  | {sum(matrix.matrix_dict[truth].values()):>4}")
        _line(console, text)
    if note:
        _line(console, note)


def _shown_labels(matrix: ConfusionMatrix) -> tuple[list[str], list[str], str]:
    """Rows and columns to print; of many labels only those that are confused."""
    total = {label: sum(row.values()) for label, row in matrix.matrix_dict.items()}
    rows = [label for label in matrix.labels if label != UNPARSEABLE or total[label]]
    if len(rows) <= MAX_MATRIX_LABELS:
        return rows, list(matrix.labels), ""
    errors = {label: total[label] - matrix.matrix_dict[label][label] for label in rows}
    worst = sorted(rows, key=lambda label: -errors[label])[:MAX_MATRIX_LABELS]
    shown = [label for label in rows if label in worst and errors[label]]
    note = f"{len(shown)} of {len(rows)} labels shown: those with most errors; all are in the file"
    answers = [
        label
        for label in matrix.labels
        if label in shown or any(matrix.matrix_dict[truth][label] for truth in shown)
    ]
    return shown, answers, note


def _print_label(console: Console, label: str, result: LabelResult) -> None:
    mark, style = "✗", "red"
    if result.accuracy >= FAIR:
        mark, style = "⚠️ ", "yellow"
    if result.accuracy >= GOOD:
        mark, style = "✓", "green"
    line = f"{mark} {label}: {result.accuracy:6.1%} ({result.correct:>4}/{result.total:>4})"
    _line(console, Text(line, style=style))


def _print_worst(console: Console, result: Result) -> None:
    _heading(console, f"MOST PROBLEMATIC LANGUAGES (Top {len(result.worst_performing_languages)})")
    if not result.worst_performing_languages:
        _line(console, "\nNone: every answer is right.")
    for number, worst in enumerate(result.worst_performing_languages, start=1):
        _print_worst_label(console, number, worst, result.per_language_accuracy[worst.language])
    _line(console, f"\n{RULE}")


def _print_worst_label(
    console: Console, number: int, worst: WorstLabel, details: LabelResult
) -> None:
    share = f"{worst.accuracy:.1%} ({worst.correct}/{worst.total})"
    _line(console, f"\n{number}. Language: {worst.language} - Accuracy: {share}")
    _line(console, "   Error examples:")
    for example in details.error_examples:
        answer = UNPARSEABLE if example.predicted is None else example.predicted
        text = _short(example.text, EXAMPLE_TEXT_LENGTH)
        _line(console, f"     - Predicted {answer} (should be {worst.language}): {text}")


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        _line(console, line)


def _short(text: str, length: int = 40) -> str:
    return shorten(safe_for_terminal(text), length)


def _heading(console: Console, title: str) -> None:
    print_lines(console, ["", RULE, title, RULE])


def _line(console: Console, text: str | Text) -> None:
    # Never wrapped or cropped: in a pipe the console believes that it is 80 columns wide.
    console.print(text, soft_wrap=True)
