"""The pictures: teacher against student, one PNG each, with n and 95 % intervals on them.

Right and wrong differ in brightness, not in colour only.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prompt_distillation.data.comparison import STUDENT_KEY, TEACHER_KEY, Comparison
from prompt_distillation.data.results import UNPARSEABLE, Confidence, Result
from prompt_distillation.report.confidence_plots import calibration, cascade, cost, coverage
from prompt_distillation.report.drawing import (
    BLUE,
    DOTS_PER_INCH,
    GREY,
    RED,
    SERIES,
    SKY,
    one_axes,
    whisker,
)

MAX_COUNTED_LABELS = 20


def plot_all(
    results: Mapping[str, Result], comparison: Comparison | None, folder: Path
) -> list[Path]:
    """Draw every picture that the data allows.

    Args:
        results: title -> evaluation, on the same inputs, in the order of the bars.
        comparison: for costs and confidence; None where only evaluations are at hand.
        folder: where the PNG files go; made if missing.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    if any(result.confusion_matrix for result in results.values()):
        figures["accuracy_comparison"] = accuracy_comparison(results)
        figures["comprehensive_metrics"] = comprehensive_metrics(results)
        figures["confusion_matrices"] = confusion_matrices(results)
        figures["prediction_heatmap"] = prediction_heatmap(results)
    pair = teacher_and_student(results, comparison)
    if pair is not None:
        figures["delta_accuracy"] = delta_accuracy(*pair)
        figures["delta_across_examples"] = delta_across_examples(*pair)
    confidence = confidence_of(results, comparison)
    if confidence is not None:
        figures["calibration"] = calibration(confidence)
        figures["coverage"] = coverage(confidence)
        if confidence.cascade is not None:
            figures["cascade"] = cascade(confidence.cascade, comparison)
    if comparison is not None and comparison.bill is not None:
        figures["cost"] = cost(comparison)
    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        FigureCanvasAgg(figure).print_png(path)
        written.append(path)
    return written


def confidence_of(
    results: Mapping[str, Result], comparison: Comparison | None
) -> Confidence | None:
    """What scored labels showed: the comparison's, or that of the first evaluation by scores."""
    if comparison is not None:
        return comparison.confidence.shown if comparison.confidence else None
    found = [result.confidence for result in results.values() if result.confidence is not None]
    return found[0] if found else None


def teacher_and_student(
    results: Mapping[str, Result], comparison: Comparison | None
) -> tuple[Result, Result] | None:
    """The two results that the deltas are between; None unless both are there."""
    if comparison is None:
        return None
    cells = comparison.cell(TEACHER_KEY), comparison.cell(STUDENT_KEY)
    found = [results.get(cell.title) for cell in cells if cell is not None]
    teacher, student = found if len(found) == 2 else (None, None)
    return (teacher, student) if teacher and student else None


def accuracy_comparison(results: Mapping[str, Result]) -> Figure:
    """A bar an evaluation, with its interval and n."""
    figure, axes = one_axes(7, 1.2 + 0.5 * len(results))
    for row, (title, result) in enumerate(results.items()):
        share, interval = result.summary.accuracy or 0.0, result.summary.accuracy_interval
        axes.barh(row, share, color=SERIES[row % len(SERIES)], height=0.6)
        whisker(axes, row, share, interval, horizontal=True)
        end = max(share, interval.high if interval else share)
        axes.text(end + 0.01, row, f"{share:.1%}, n={result.summary.evaluated}", va="center",
                  fontsize=9)  # fmt: skip
        axes.text(-0.01, row, title, va="center", ha="right", fontsize=9)
    axes.set(
        yticks=[],
        xlim=(0, 1.25),
        xticks=np.linspace(0, 1, 6),
        xlabel=f"accuracy against {_truth(results)}, 95 % interval",
    )
    axes.invert_yaxis()
    axes.set_title("Accuracy")
    return figure


def comprehensive_metrics(results: Mapping[str, Result]) -> Figure:
    """Accuracy, macro precision, recall and F1, and the share of parsed answers, side by side."""
    metrics: dict[str, Callable[[Result], float]] = {
        "accuracy": lambda r: r.summary.accuracy or 0.0,
        "macro precision": lambda r: _mean([x.precision for x in r.per_language_accuracy.values()]),
        "macro recall": lambda r: _mean([x.recall for x in r.per_language_accuracy.values()]),
        "macro F1": lambda r: r.summary.macro_f1 or 0.0,
        "parsed": lambda r: r.summary.parse_rate,
    }
    figure, axes = one_axes(9, 4.5)
    width = 0.8 / len(results)
    for number, (title, result) in enumerate(results.items()):
        places = np.arange(len(metrics)) + (number - (len(results) - 1) / 2) * width
        values = [metric(result) for metric in metrics.values()]
        label = f"{title} (n={result.summary.evaluated})"
        axes.bar(places, values, width, color=SERIES[number % len(SERIES)], label=label)
        whisker(axes, places[0], values[0], result.summary.accuracy_interval)
    axes.set_xticks(range(len(metrics)), list(metrics))
    axes.set(ylim=(0, 1.05), title="Metrics (interval on the accuracy)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, frameon=False, fontsize=8)
    return figure


def confusion_matrices(results: Mapping[str, Result]) -> Figure:
    """Matrices side by side; shade is the share of the row, numbers are counts."""
    shown = {title: result for title, result in results.items() if result.confusion_matrix}
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.2 * columns, 5.2 * rows), layout="constrained", dpi=DOTS_PER_INCH)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(shown) :]:
        axes.axis("off")
    for axes, (title, result) in zip(grid, shown.items(), strict=False):
        assert result.confusion_matrix is not None
        _draw_matrix(axes, result, f"{title}\nn={result.summary.evaluated}")
    return figure


def _draw_matrix(axes: Any, result: Result, title: str) -> None:
    matrix = result.confusion_matrix
    assert matrix is not None
    counts = np.array(matrix.matrix_2d)[:-1]  # no truth is unparseable
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    labels = list(matrix.labels)
    axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=90 if len(labels) > 15 else 0)
    axes.set_yticks(range(len(labels) - 1), labels[:-1], fontsize=7)
    if len(labels) <= MAX_COUNTED_LABELS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "black" if shares[row, column] > 0.5 else "white"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=6,
                      color=colour)  # fmt: skip
    axes.set(title=title, xlabel=f"predicted ({UNPARSEABLE}: no answer)", ylabel=result.truth)


def prediction_heatmap(results: Mapping[str, Result]) -> Figure:
    """Every input a column, every evaluation a row: right, wrong, or no answer."""
    first = next(iter(results.values())).predictions
    order = sorted(range(len(first)), key=lambda at: (first[at].ground_truth or "", at))
    cells = np.array(
        [[_state(result, at) for at in order] for result in results.values()], dtype=float
    )
    figure, axes = one_axes(11, 1.6 + 0.45 * len(results))
    colours = ListedColormap([SKY, RED, "black", "#DDDDDD"])
    axes.imshow(cells, aspect="auto", cmap=colours, vmin=0, vmax=3, interpolation="nearest")
    axes.set_yticks(range(len(results)), list(results), fontsize=8)
    starts = [
        at for at, place in enumerate(order)
        if at == 0 or first[place].ground_truth != first[order[at - 1]].ground_truth
    ]  # fmt: skip
    if len(starts) <= MAX_COUNTED_LABELS:
        axes.set_xticks(starts, [first[order[at]].ground_truth or "-" for at in starts], fontsize=8)
    axes.set(title=f"Every input, by its label (n={len(first)})")
    names = zip((SKY, RED, "black", "#DDDDDD"), ("right", "wrong", "no answer", "no truth"),
                strict=True)  # fmt: skip
    axes.legend(handles=[Patch(color=colour, label=name) for colour, name in names],
                loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=4, frameon=False,
                fontsize=8)  # fmt: skip
    return figure


def _state(result: Result, at: int) -> int:
    prediction = result.predictions[at]
    if prediction.correct is None:
        return 3
    if prediction.correct:
        return 0
    return 2 if prediction.predicted is None else 1


def delta_accuracy(teacher: Result, student: Result) -> Figure:
    """Per label, student less teacher, in points; the interval is of the paired difference."""
    labels = sorted(student.per_language_accuracy)
    figure, axes = one_axes(8, 1.5 + 0.32 * len(labels))
    for row, label in enumerate(labels):
        pairs = [
            (bool(theirs.correct), bool(ours.correct))
            for theirs, ours in zip(teacher.predictions, student.predictions, strict=True)
            if ours.ground_truth == label
        ]
        won, lost = pairs.count((False, True)), pairs.count((True, False))
        delta = 100 * (won - lost) / len(pairs)
        # Wald's interval of a difference of paired shares (Agresti 2013, section 11.1.1).
        spread = 196 * np.sqrt(max(won + lost - (won - lost) ** 2 / len(pairs), 0)) / len(pairs)
        axes.barh(row, delta, color=BLUE if delta >= 0 else RED, height=0.6)
        axes.errorbar(delta, row, xerr=spread, color="black", capsize=2, linewidth=1)
    axes.set_yticks(range(len(labels)), [
        f"{label} (n={student.per_language_accuracy[label].total})" for label in labels
    ], fontsize=8)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(title="Student less teacher, per label", xlabel="points, 95 % interval")
    return figure


def delta_across_examples(teacher: Result, student: Result) -> Figure:
    """Inputs won less inputs lost, added up in the order of the file, with what chance would do."""
    steps = [
        int(bool(ours.correct)) - int(bool(theirs.correct))
        for theirs, ours in zip(teacher.predictions, student.predictions, strict=True)
    ]
    balance, disputed = np.cumsum(steps), np.cumsum(np.abs(steps))
    figure, axes = one_axes(9, 3.8)
    places = np.arange(1, len(steps) + 1)
    chance = 1.96 * np.sqrt(disputed)  # a fair coin for every input where they differ
    axes.fill_between(places, -chance, chance, color=GREY, alpha=0.25, label="chance, 95 %")
    axes.step(places, balance, color=BLUE, where="post", label="student won less lost")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title=f"Student against teacher, input by input (n={len(steps)})",
             xlabel="inputs, in the order of the file", ylabel="inputs")  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    return figure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _truth(results: Mapping[str, Result]) -> str:
    return " / ".join(dict.fromkeys(result.truth for result in results.values()))
