"""An evaluation on the screen: a line per input as it comes, then the tables and the summary."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prompt_distillation.data.intervals import percent, with_interval
from prompt_distillation.data.results import (
    UNPARSEABLE,
    ConfusionMatrix,
    FieldScores,
    LabelAccuracy,
    Overlap,
    Prediction,
    Result,
    Truths,
    Usage,
    WorstLabel,
)
from prompt_distillation.data.text import safe_for_terminal, shorten
from prompt_distillation.report.sentences import (
    confidence_sentences,
    paired_sentence,
    validity_sentence,
)

RULE = "=" * 80
SHORT_RULE = "=" * 60
GOOD, FAIR = 0.9, 0.5
STREAM_TEXT_LENGTH = 70
EXAMPLE_TEXT_LENGTH = 50
MAX_MATRIX_LABELS = 30
MOSTLY_READABLE = 0.5
"""Share of readable answers from which the model can be said to answer at all."""


def make_console() -> Console:
    """A console on stdout: colours on a terminal, plain text in a pipe."""
    return Console(highlight=False, markup=False, emoji=False)


class Stream:
    """Prints predictions as they come, and keeps the running accuracy."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._shown = self._correct = self._judged = 0

    def show(self, prediction: Prediction, total: int) -> None:
        """Print the line of a prediction, one of ``total``; before the first one, the heading."""
        if not self._shown:
            print_lines(self._console, ["Evaluating model...", RULE])
        self._shown += 1
        if not self._quiet:
            _line(self._console, self._text(prediction, total))

    def _text(self, prediction: Prediction, total: int) -> Text:
        mark, style = "·", "dim"
        if prediction.correct is not None:
            self._judged += 1
            self._correct += prediction.correct
            mark, style = ("✓", "green") if prediction.correct else ("✗", "red")
        running = "-"
        if self._judged:
            share = 100 * self._correct / self._judged
            running = f"{self._correct}/{self._judged} ({share:5.1f}%)"
        width = len(str(total))
        answer = UNPARSEABLE if prediction.predicted is None else prediction.predicted
        truth = "-" if prediction.ground_truth is None else prediction.ground_truth
        text = Text(f"{mark} ", style=style)
        text.append(f"[{self._shown:>{width}}/{total}]", style="dim")
        text.append(f" Pred: {_short(answer)}", style=style)
        text.append(f" | GT: {_short(truth)}", style="default")
        text.append(f" | Acc: {running} | ", style="default")
        text.append(_short(prediction.text, STREAM_TEXT_LENGTH), style="default")
        return text

    def finish(self) -> None:
        """Print the closing line."""
        _line(self._console, RULE)
        _line(self._console, f"Evaluation completed: {self._shown} samples processed")


def print_result(console: Console, result: Result, *, output_file: Path) -> None:
    """Print everything that follows the stream, in the order in which people read it."""
    if result.confusion_matrix is not None and result.summary.evaluated:
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
    if not rows:
        _line(console, f"\nNo label of {len(matrix.labels) - 1} is confused with another.")
        return
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
    note = f"{len(shown)} of {len(rows)} labels shown, those with the most errors; the file has all"
    answers = [
        label
        for label in matrix.labels
        if label in shown or any(matrix.matrix_dict[truth][label] for truth in shown)
    ]
    return shown, answers, note


def _print_label(console: Console, label: str, result: LabelAccuracy) -> None:
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
        _line(console, "\nNone: every answer is correct.")
    for number, worst in enumerate(result.worst_performing_languages, start=1):
        _print_worst_label(console, number, worst, result.per_language_accuracy[worst.language])
    _line(console, f"\n{RULE}")


def _print_worst_label(
    console: Console, number: int, worst: WorstLabel, details: LabelAccuracy
) -> None:
    share = f"{worst.accuracy:.1%} ({worst.correct}/{worst.total})"
    _line(console, f"\n{number}. Language: {worst.language} - Accuracy: {share}")
    _line(console, "   Error examples:")
    for example in details.error_examples:
        answer = UNPARSEABLE if example.predicted is None else example.predicted
        text = _short(example.text, EXAMPLE_TEXT_LENGTH)
        _line(console, f"     - Predicted {answer} (should be {worst.language}): {text}")


def print_summary(console: Console, result: Result, *, output_file: Path) -> None:
    """Print the summary, the agreement with each truth, the overlap with training, and usage."""
    lines = ["", SHORT_RULE, "EVALUATION SUMMARY", SHORT_RULE, *_model_lines(result), ""]
    lines += _performance_lines(result)
    if result.truths and result.summary.evaluated:
        lines += ["", *_agreement_lines(result.truths)]
    lines += ["", *_overlap_lines(result.overlap, split=result.split)]
    if result.confidence:
        lines += ["", "Confidence:"]
        lines += [f"  {line}" for line in confidence_sentences(result.confidence)]
    lines += ["", *_usage_lines(result.usage)] if result.usage else []
    if not result.with_prompt and result.usage and result.summary.parse_rate >= MOSTLY_READABLE:
        lines += ["", f"💡 The model responds directly without the prompt of {result.task!r}!"]
    lines += ["", f"📁 Complete results saved to: {output_file}"]
    if result.confusion_matrix is not None:
        lines += ["   Includes: predictions, confusion matrix, per-language stats, error examples"]
    print_lines(console, lines)


def _model_lines(result: Result) -> Iterator[str]:
    yield f"{'Model' if result.usage else 'Predictions'}: {result.base_model}"
    if result.adapter:
        yield f"Adapter: {result.adapter}"
    if result.with_prompt or result.thinking:
        prompt = "with the task's prompt" if result.with_prompt else "without the prompt"
        yield f"Asked: {prompt}, {'thinking' if result.thinking else 'not thinking'}"


def _performance_lines(result: Result) -> Iterator[str]:
    summary = result.summary
    yield "Performance:"
    yield f"  Total samples: {summary.total_samples}"
    yield f"  Successfully predicted: {summary.predicted}"
    yield f"  Unparseable responses: {summary.unparseable}"
    for reason, count in result.reject_reasons.items():
        yield f"    {reason}: {count}"
    yield f"  Parse rate: {summary.parse_rate:.2%}"
    if result.metrics == "fields":
        yield f"  {validity_sentence(result)}"
    yield ""
    if result.truths is None:  # no answer is right or wrong
        yield from _text_lines(result)
    elif summary.accuracy is None or summary.accuracy_interval is None:
        yield f"  Overall Accuracy: - (no input has a {result.truth} answer)"
    else:
        interval = summary.accuracy_interval
        yield f"  Overall Accuracy: {summary.accuracy:.2%}"
        yield f"  Correct: {summary.correct}/{summary.evaluated}"
        yield f"  95% interval: {interval.low:.2%} - {interval.high:.2%} (Wilson)"
        if summary.macro_f1 is not None:
            yield f"  Macro-F1: {percent(summary.macro_f1, digits=2)}"
        yield from _field_lines(result.field_scores)
        if summary.left_out:
            yield f"  Not evaluated, no {result.truth} answer: {summary.left_out}"


def _field_lines(scores: FieldScores | None) -> Iterator[str]:
    """JSON answers value by value, the worst fields first; the accuracy is of whole objects."""
    if scores is None:
        return
    shares = f"precision {scores.precision:.1%}, recall {scores.recall:.1%}, F1 {scores.f1:.1%}"
    if scores.f1_interval is not None:
        shares += f" (95 % interval {scores.f1_interval.low:.1%} - {scores.f1_interval.high:.1%})"
    yield f"  Values: {shares}"
    yield f"  Invented values: {scores.invented:.1%}"
    for path, one in scores.fields.items():
        shares = f"F1 {one.f1:6.1%}, precision {one.precision:6.1%}, recall {one.recall:6.1%}"
        yield f"    {path}: {shares} (n={one.wanted}, invented {one.invented})"
        for example in one.error_examples[:1]:
            yield f"      e.g. {_short(example.predicted or '')}: {_short(example.text)}"


def _text_lines(result: Result) -> Iterator[str]:
    """What can be counted of free texts, which takes the place of an accuracy."""
    scores = result.text_scores
    if scores is None:
        return
    if scores.n:
        yield f"  Against the {scores.reference} texts (n={scores.n}):"
    else:
        yield f"  Similarity: - (no input has a {scores.reference} text to compare with)"
    for name, score in scores.named:
        yield f"    {name + ':':<22}{score.shown}"
    for what, quote in (
        ("the prompt", scores.leaks.longest_of_prompt),
        ("the reasoning", scores.leaks.longest_of_reasoning),
    ):
        count = len(quote.split())
        if count > 1:
            yield f"    longest run of words from {what} ({count}): {_short(quote, 80)}"
    if scores.n < scores.total:
        yield f"  Not compared, no {scores.reference} text: {scores.total - scores.n}"


def _agreement_lines(truths: Truths) -> Iterator[str]:
    yield "Agreement:"
    for name, found in truths.named:
        shown = "unknown for these inputs"
        if found is not None and found.n:
            left_out = f", {found.left_out} left out" if found.left_out else ""
            shown = f"{with_interval(found.accuracy, found.interval)}, n={found.n}{left_out}"
        yield f"  {name + ':':<34}{shown}"
    if truths.student_against_teacher:
        yield f"  {paired_sentence(truths.student_against_teacher)}"


def _overlap_lines(overlap: Overlap, *, split: str) -> Iterator[str]:
    if not overlap.checked:
        yield (
            "⚠️  Whether these inputs were used for training is unknown: there is no file at "
            "--train_data_file."
        )
        return
    if not overlap.texts and not overlap.groups:
        yield (
            f"None of these {overlap.total} inputs, nor any of their groups, is among the "
            f"{overlap.training_rows} training rows (split {split})."
        )
        return
    texts, groups = overlap.texts / overlap.total, overlap.groups / overlap.total
    yield "⚠️  TEST INPUTS WERE USED FOR TRAINING: this is not the accuracy on new inputs."
    yield f"    {overlap.texts} of {overlap.total} inputs ({texts:.1%}) are in the training data;"
    yield f"    {overlap.groups} ({groups:.1%}) share a group with a training input."


def _usage_lines(usage: Usage) -> Iterator[str]:
    cached = f" ({usage.cached_tokens} in total from the cache)" if usage.cached_tokens else ""
    latency = usage.latency_seconds_mean
    yield f"Usage (engine {usage.engine}, batched):"
    yield (
        f"  Tokens per query: {usage.prompt_tokens_per_query:.1f} in{cached}, "
        f"{usage.completion_tokens_per_query:.1f} out"
    )
    yield f"  Seconds per query: {usage.seconds_per_query:.4f}" + (
        "" if latency is None else f" (mean latency {latency:.3f} s)"
    )
    yield (
        f"  Throughput: {usage.queries_per_second:.1f} queries/s "
        f"({usage.run_seconds:.1f} s, plus {usage.startup_seconds:.1f} s to start)"
    )


def print_lines(console: Console, lines: Iterable[str]) -> None:
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
