"""Charts of an evaluation or a comparison, one PNG each, with n and 95 % intervals on them.

Colours are Okabe and Ito's (2008), which people with any colour vision can tell apart; right and
wrong differ in brightness too. Figures are made without pyplot, which keeps global state.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter
from matplotlib.transforms import Bbox

from prompt_distillation.data.comparison import STUDENT_KEY, TEACHER_KEY, Cell, Comparison
from prompt_distillation.data.files import atomic_writer, begins_with
from prompt_distillation.data.intervals import Interval, percent, wilson_interval
from prompt_distillation.data.results import UNPARSEABLE, Cascade, Confidence, Result
from prompt_distillation.data.text import safe_for_terminal, shorten
from prompt_distillation.report.sentences import money

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999",
)  # fmt: skip
INK = "#333333"
MAX_COUNTED_LABELS, MANY_LABELS = 20, 30
MAX_NAME_LENGTH = 32

PERCENT = PercentFormatter(1, decimals=0)

STYLE = {
    "figure.dpi": 150, "savefig.dpi": "figure", "font.size": 9, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8,
    # A label such as "$5 to $10" is text, not a formula.
    "text.parse_math": False,
}  # fmt: skip

FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai",
    "Noto Sans Hebrew", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS",
)  # fmt: skip
"""For labels in scripts that matplotlib's own font lacks; those that are installed are used."""

PICTURES = (
    "accuracy_cost", "accuracy_comparison", "comprehensive_metrics", "confusion_matrices",
    "prediction_heatmap", "delta_accuracy", "delta_across_examples", "calibration", "coverage",
    "cascade", "cost",
)  # fmt: skip
"""Every picture that `plot_all` may draw."""

_MARK = "prompt-distillation"


def plot_all(
    results: Mapping[str, Result], comparison: Comparison | None, folder: Path
) -> list[Path]:
    """Draw every picture that the data allows.

    Args:
        results: title -> evaluation, on the same inputs, in the order of the bars.
        comparison: for costs and confidence; None where only evaluations are at hand.
        folder: where the PNG files go; made if missing.
    """
    installed = set(get_font_names())
    fonts = ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]
    with rc_context({**STYLE, "font.family": fonts}):
        return [
            save_picture(folder / f"{name}.png", figure)
            for name, figure in _figures(results, comparison)
        ]


def save_picture(path: Path, figure: Figure) -> Path:
    """Write ``figure`` as a PNG that says who made it; see `is_own_picture`."""
    picture = BytesIO()
    with warnings.catch_warnings():
        # A label in a script that no installed font has is shown as boxes; the page has its text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": _MARK})
    with atomic_writer(path) as file:
        cast(TextIO, file).buffer.write(picture.getvalue())
    return path


def is_own_folder(folder: Path) -> bool:
    """Whether `save_picture` wrote any picture in ``folder``."""
    return any(is_own_picture(path) for path in folder.glob("*.png"))


def is_own_picture(path: Path) -> bool:
    """Whether `save_picture` wrote this file: the only pictures that another run may replace."""
    # PNG, third edition, 11.3.4.3: a tEXt chunk is its keyword, a zero byte, and the text.
    return begins_with(path, f"Software\0{_MARK}".encode())


def _figures(
    results: Mapping[str, Result], comparison: Comparison | None
) -> Iterator[tuple[str, Figure]]:
    if comparison is not None and len(priced_cells(comparison)) > 1:
        yield "accuracy_cost", accuracy_cost(comparison)
    if any(result.confusion_matrix and result.summary.evaluated for result in results.values()):
        yield "accuracy_comparison", accuracy_comparison(results)
        yield "comprehensive_metrics", comprehensive_metrics(results)
        yield "confusion_matrices", confusion_matrices(results)
        yield "prediction_heatmap", prediction_heatmap(results)
    pair = teacher_and_student(results, comparison)
    if pair is not None:
        yield "delta_accuracy", delta_accuracy(*pair)
        yield "delta_across_examples", delta_across_examples(*pair)
    confidence = confidence_of(results, comparison)
    if confidence is not None:
        yield "calibration", calibration(confidence)
        yield "coverage", coverage(confidence)
        if confidence.cascade is not None:
            yield "cascade", cascade(confidence.cascade, comparison)
    if comparison is not None and comparison.bill is not None:
        yield "cost", cost(comparison)


def confidence_of(
    results: Mapping[str, Result], comparison: Comparison | None
) -> Confidence | None:
    """What scored labels showed: the comparison's, or that of the first evaluation by scores."""
    if comparison is not None:
        return comparison.confidence.shown if comparison.confidence else None
    return next((result.confidence for result in results.values() if result.confidence), None)


def teacher_and_student(
    results: Mapping[str, Result], comparison: Comparison | None
) -> tuple[Result, Result] | None:
    """The two results to compare; None unless both are there and have an accuracy."""
    cells = [comparison.cell(key) for key in (TEACHER_KEY, STUDENT_KEY)] if comparison else []
    found = [results[cell.title] for cell in cells if cell and cell.title in results]
    if len(found) < 2 or found[1].summary.accuracy is None:
        return None
    return found[0], found[1]


def priced_cells(comparison: Comparison) -> list[Cell]:
    """The cells that have both a cost and an accuracy."""
    return [
        cell
        for cell in comparison.cells
        if cell.cost and cell.cost.per_million_queries > 0 and cell.accuracy is not None
    ]


def one_axes(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of ``width x height`` inches, and its only axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _whisker(
    axes: Any, place: float, share: float, interval: Interval | None, **style: Any
) -> None:
    """Draw an interval around ``share``; nothing where there is none."""
    if interval is None:
        return
    reach = [[max(share - interval.low, 0)], [max(interval.high - share, 0)]]
    style = {"color": "black", "capsize": 3, "linewidth": 1, **style}
    if style.pop("horizontal", False):
        axes.errorbar(share, place, xerr=reach, **style)
    else:
        axes.errorbar(place, share, yerr=reach, **style)


def _colours(number: int) -> list[str]:
    """One colour per model: orange for the teacher, the first; blue for the student, the last."""
    others = (ORANGE, PURPLE, GREEN, SKY)
    return [*(others[at % len(others)] for at in range(number - 1)), BLUE]


def _name(text: str) -> str:
    """A label or title, which a user chose, as a chart can show it."""
    return shorten(safe_for_terminal(text), MAX_NAME_LENGTH)


def accuracy_cost(comparison: Comparison) -> Figure:
    """Each cell's accuracy against what a million queries cost: up and to the left is better."""
    cells = priced_cells(comparison)
    currency = comparison.bill.currency if comparison.bill else "cost"
    colours = {TEACHER_KEY: ORANGE, STUDENT_KEY: BLUE}
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=200)
    axes = figure.subplots()
    places = {cell.key: (cell.cost.per_million_queries, cell.accuracy or 0.0)
              for cell in cells if cell.cost}  # fmt: skip
    for cell in cells:
        known = colours.get(cell.key, GREY)
        axes.scatter(*places[cell.key], s=110, color=known, edgecolor="white", zorder=3)
        _whisker(axes, *places[cell.key], cell.interval, color=INK, capsize=4, zorder=4)
    costs = [x for x, _ in places.values()]
    lowest = min(cell.interval.low if cell.interval else 0.0 for cell in cells)
    axes.set_xscale("log")
    axes.set(
        xlim=(min(costs) / 2.2, max(costs) * 2.6),
        ylim=(-0.06, 1.12) if lowest < 0.5 else (lowest - 0.08, 1.03),
        xlabel=f"cost per million queries in {currency}, log scale",
        ylabel="accuracy, 95 % interval",
        title=f"Accuracy and cost of each model, {cells[0].n}"
        f"{' held-out' if comparison.split == 'held_out' else ''} inputs",
    )
    decades = np.log10(max(costs) / min(costs))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(alpha=0.25, linewidth=0.6)
    labels = {
        cell.key: f"{_name(cell.title)}\n{percent(cell.accuracy)}, "
        f"{money(places[cell.key][0])} {currency}"
        for cell in cells
    }
    if TEACHER_KEY in places and STUDENT_KEY in places:
        _draw_saving(axes, places[TEACHER_KEY], places[STUDENT_KEY])
    _place_labels(axes, places, labels, bold=colours)
    return figure


def _draw_saving(axes: Any, teacher: tuple[float, float], student: tuple[float, float]) -> None:
    """An arrow from the teacher to a cheaper student, where there is room for its words."""
    ends = axes.transData.transform([teacher, student])
    if ends[0][0] - ends[1][0] < 200:
        return
    axes.annotate("", student, teacher, arrowprops={
        "arrowstyle": "->", "color": INK, "linewidth": 1.2, "shrinkA": 9, "shrinkB": 9,
    })  # fmt: skip
    middle = (float(np.sqrt(teacher[0] * student[0])), (teacher[1] + student[1]) / 2)
    axes.annotate(
        f"{1 - student[0] / teacher[0]:.0%} cheaper", middle, (0, 5), textcoords="offset points",
        ha="center", va="bottom", fontsize=8,
    )  # fmt: skip


_LABEL_SIDES = (
    (12, 0, "left", "center"), (-12, 0, "right", "center"), (0, -16, "center", "top"),
    (0, 16, "center", "bottom"), (12, -14, "left", "top"), (-12, -14, "right", "top"),
    (12, 14, "left", "bottom"), (-12, 14, "right", "bottom"), (0, -44, "center", "top"),
    (0, 44, "center", "bottom"),
)  # fmt: skip
"""Where a label may be put: its offset from the point in 1/72 inch, and its alignment."""


def _place_labels(
    axes: Any,
    places: Mapping[str, tuple[float, float]],
    labels: Mapping[str, str],
    *,
    bold: Collection[str],
) -> None:
    """Write each label beside its point, on the side where it covers least."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()  # settles the layout, without which nothing has a place in pixels
    frame = axes.get_window_extent()
    centres = {key: axes.transData.transform(place) for key, place in places.items()}
    taken = {key: Bbox.from_bounds(x - 16, y - 32, 32, 64) for key, (x, y) in centres.items()}
    for key, place in places.items():
        others = [box for name, box in taken.items() if name != key]
        tried = []
        for number, (dx, dy, across, along) in enumerate(_LABEL_SIDES):
            label = axes.annotate(
                labels[key], place, (dx, dy), textcoords="offset points", ha=across, va=along,
                weight="bold" if key in bold else "normal", linespacing=1.3, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )  # fmt: skip
            box = label.get_window_extent(canvas.get_renderer())
            outside = box.width * box.height - _common_area(box, frame)
            covered = sum(_common_area(box, other) for other in others)
            tried.append((outside + covered, number, label, box))
        tried.sort(key=lambda item: item[:2])
        for _, _, label, _ in tried[1:]:
            label.remove()
        taken[f"label of {key}"] = tried[0][3]


def _common_area(first: Bbox, second: Bbox) -> float:
    common = Bbox.intersection(first, second)
    return float(common.width * common.height) if common else 0.0


def accuracy_comparison(results: Mapping[str, Result]) -> Figure:
    """A bar per evaluation, with its interval and n."""
    figure, axes = one_axes(7, 1.2 + 0.5 * len(results))
    colours = _colours(len(results))
    for row, result in enumerate(results.values()):
        share, interval = result.summary.accuracy or 0.0, result.summary.accuracy_interval
        axes.barh(row, share, color=colours[row], height=0.6)
        _whisker(axes, row, share, interval, horizontal=True)
        end = max(share, interval.high if interval else share)
        shown = f"{percent(result.summary.accuracy)}, n={result.summary.evaluated}"
        axes.text(end + 0.01, row, shown, va="center")
    truths = " / ".join(dict.fromkeys(result.truth for result in results.values()))
    axes.set_yticks(range(len(results)), [_name(title) for title in results])
    axes.set(
        xlim=(0, 1.25), xticks=np.linspace(0, 1, 6), title="Accuracy",
        xlabel=f"accuracy against the {truths} answers, 95 % interval",
    )  # fmt: skip
    axes.xaxis.set_major_formatter(PERCENT)
    axes.invert_yaxis()
    return figure


def comprehensive_metrics(results: Mapping[str, Result]) -> Figure:
    """Accuracy, macro precision, recall and F1, and the share of parsed answers, side by side."""
    metrics: dict[str, Callable[[Result], float]] = {
        "accuracy": lambda r: r.summary.accuracy or 0.0,
        "macro precision": lambda r: _mean([x.precision for x in r.per_language_accuracy.values()]),
        "macro recall": lambda r: _mean([x.recall for x in r.per_language_accuracy.values()]),
        "macro F1": lambda r: r.summary.macro_f1 or 0.0,
        "parse rate": lambda r: r.summary.parse_rate,
    }
    figure, axes = one_axes(9, 4.5)
    width, colours = 0.8 / len(results), _colours(len(results))
    for number, (title, result) in enumerate(results.items()):
        places = np.arange(len(metrics)) + (number - (len(results) - 1) / 2) * width
        values = [metric(result) for metric in metrics.values()]
        label = f"{_name(title)} (n={result.summary.evaluated})"
        axes.bar(places, values, width, color=colours[number], label=label)
        _whisker(axes, places[0], values[0], result.summary.accuracy_interval)
    axes.set_xticks(range(len(metrics)), list(metrics))
    axes.set(ylim=(0, 1.05), title="Metrics, with the 95 % interval of the accuracy")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=2)
    return figure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def confusion_matrices(results: Mapping[str, Result]) -> Figure:
    """Matrices side by side; the shade is the share of the row, the numbers are counts."""
    shown = {title: result for title, result in results.items() if result.confusion_matrix}
    labels = max(len(r.confusion_matrix.labels) for r in shown.values() if r.confusion_matrix)
    columns = min(3 if labels <= MANY_LABELS and len(shown) != 4 else 2, len(shown))
    rows = -(-len(shown) // columns)
    side = min(max(5.2, 0.12 * labels), 10)  # inches
    figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(shown) :]:
        axes.axis("off")
    for axes, (title, result) in zip(grid, shown.items(), strict=False):
        _draw_matrix(axes, result, f"{_name(title)}, n={result.summary.evaluated}")
    return figure


def _draw_matrix(axes: Any, result: Result, title: str) -> None:
    matrix = result.confusion_matrix
    assert matrix is not None
    counts = np.array(matrix.matrix_2d)[:-1]  # no truth is unparseable
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    labels = [_name(label) for label in matrix.labels]
    turned = 90 if len(labels) > 15 or max(map(len, labels)) > 4 else 0
    size = 11 if len(labels) <= 8 else 7 if len(labels) <= MANY_LABELS else 5
    axes.set_xticks(range(len(labels)), labels, fontsize=size, rotation=turned)
    axes.set_yticks(range(len(labels) - 1), labels[:-1], fontsize=size)
    if len(labels) <= MAX_COUNTED_LABELS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=size - 1,
                      color=colour)  # fmt: skip
    axes.set(
        title=title, xlabel=f"predicted ({UNPARSEABLE}: no answer)", ylabel=f"{result.truth} label"
    )


def prediction_heatmap(results: Mapping[str, Result]) -> Figure:
    """Every input a column, every evaluation a row: right, wrong, or no answer."""
    first = next(iter(results.values())).predictions
    order = sorted(range(len(first)), key=lambda at: (first[at].ground_truth or "", at))
    cells = np.array(
        [[_state(result, at) for at in order] for result in results.values()], dtype=float
    )
    figure, axes = one_axes(11, 1.6 + 0.45 * len(results))
    states = {"right": SKY, "wrong": RED, "no answer": "black", "no truth": "#DDDDDD"}
    axes.imshow(cells, aspect="auto", cmap=ListedColormap(list(states.values())), vmin=0, vmax=3,
                interpolation="nearest")  # fmt: skip
    axes.set_yticks(range(len(results)), [_name(title) for title in results], fontsize=8)
    truths = [first[at].ground_truth for at in order]
    starts = [at for at, truth in enumerate(truths) if at == 0 or truth != truths[at - 1]]
    axes.set_xticks([])
    if len(starts) <= MAX_COUNTED_LABELS:
        axes.set_xticks(starts, [_name(truths[at] or "-") for at in starts], fontsize=8)
        for start in starts[1:]:
            axes.axvline(start - 0.5, color="white", linewidth=1.5)
    axes.set(title=f"Every input, sorted by its label (n={len(first)})")
    shown = {name: colour for at, (name, colour) in enumerate(states.items()) if at in cells}
    axes.legend(handles=[Patch(color=colour, label=name) for name, colour in shown.items()],
                loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=4)  # fmt: skip
    return figure


def _state(result: Result, at: int) -> int:
    prediction = result.predictions[at]
    if prediction.correct is None:
        return 3
    if prediction.correct:
        return 0
    return 2 if prediction.predicted is None else 1


def delta_accuracy(teacher: Result, student: Result) -> Figure:
    """Student minus teacher per label, in points; the interval is of the paired difference."""
    labels = sorted(student.per_language_accuracy)
    figure, axes = one_axes(8, 1.5 + 0.32 * len(labels))
    for row, label in enumerate(labels):
        pairs = [
            (bool(theirs.correct), bool(ours.correct))
            for theirs, ours in zip(teacher.predictions, student.predictions, strict=True)
            if ours.ground_truth == label
        ]
        won, lost = pairs.count((False, True)), pairs.count((True, False))
        delta, n = 100 * (won - lost) / len(pairs), len(pairs) + 2
        # Of few pairs too: Agresti and Min (2005), half a pair more of each of the four kinds.
        spread = 196 * np.sqrt(won + lost + 1 - (won - lost) ** 2 / n) / n
        axes.barh(row, delta, color=BLUE if delta >= 0 else ORANGE, height=0.6)
        axes.errorbar(
            100 * (won - lost) / n, row, xerr=spread, color="black", capsize=2, linewidth=1
        )
    axes.set_yticks(range(len(labels)), [
        f"{_name(label)} (n={student.per_language_accuracy[label].total})" for label in labels
    ], fontsize=8)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(title="Accuracy per label: student minus teacher",
             xlabel="percentage points, 95 % interval; above 0 the student is better")  # fmt: skip
    return figure


def delta_across_examples(teacher: Result, student: Result) -> Figure:
    """Running count of inputs won minus inputs lost, with what chance alone would do."""
    steps = [0] + [
        int(bool(ours.correct)) - int(bool(theirs.correct))
        for theirs, ours in zip(teacher.predictions, student.predictions, strict=True)
    ]
    balance, differing = np.cumsum(steps), np.cumsum(np.abs(steps))
    figure, axes = one_axes(9, 3.8)
    places = np.arange(len(steps))
    chance = 1.96 * np.sqrt(differing)  # a fair coin for every input where they differ
    axes.fill_between(places, -chance, chance, color=GREY, alpha=0.25, linewidth=0,
                      label="explained by chance, 95 %")  # fmt: skip
    axes.step(places, balance, color=BLUE, where="post",
              label="only the student right, minus only the teacher right")  # fmt: skip
    axes.plot(places[-1], balance[-1], "o", color=BLUE, label="at the end")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title=f"Student against teacher, running total (n={len(steps) - 1})",
             xlabel="inputs, in the order of the file", ylabel="difference")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=3)
    return figure


def calibration(confidence: Confidence) -> Figure:
    """Accuracy against confidence; on the diagonal, 90 % confident means right 90 % of the time."""
    measured = confidence.calibration
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfectly calibrated")
    for part in measured.bins:
        _whisker(axes, part.confidence, part.accuracy, part.interval)
    axes.plot(
        [part.confidence for part in measured.bins], [part.accuracy for part in measured.bins],
        "o", color=BLUE, label="inputs in one bin, 95 % interval", clip_on=False,
    )  # fmt: skip
    error = measured.expected_calibration_error
    axes.set(title=f"Calibration: expected error {error:.3f}, n={measured.n}", ylabel="accuracy",
             xlim=(0, 1.02), ylim=(0, 1.05))  # fmt: skip
    axes.legend(loc="upper left")
    width = measured.bins[0].high - measured.bins[0].low
    bars = counts.bar([part.low + width / 2 for part in measured.bins],
                      [part.n for part in measured.bins], 0.9 * width, color=SKY)  # fmt: skip
    counts.bar_label(bars, fontsize=8, padding=2)
    counts.set(xlabel="confidence", ylabel="inputs", xlim=(0, 1.02))
    counts.margins(y=0.3)
    return figure


def coverage(confidence: Confidence) -> Figure:
    """Accuracy on the most confident inputs, for every share of them."""
    points, n = confidence.coverage, confidence.calibration.n
    figure, axes = one_axes(6.5, 4.2)
    shares = [point.coverage for point in points]
    intervals = [wilson_interval(round(p.accuracy * p.coverage * n), round(p.coverage * n))
                 for p in points]  # fmt: skip
    known = [interval for interval in intervals if interval is not None]
    axes.fill_between(shares, [i.low for i in known], [i.high for i in known], color=SKY,
                      alpha=0.35, linewidth=0, label="95 % interval")  # fmt: skip
    axes.plot(shares, [point.accuracy for point in points], color=BLUE, label="student")
    # The interval of the first few inputs is as wide as the picture; it need not fit.
    low = min(interval.low for interval in known[len(known) // 5 :])
    if confidence.cascade is not None:
        teacher = confidence.cascade.teacher_accuracy
        axes.axhline(teacher, color=ORANGE, linestyle="--", label=f"teacher alone, {teacher:.1%}")
        low = min(low, teacher)
    axes.set(title=f"Accuracy of the most confident answers, n={n}", xlim=(0, 1.02),
             ylim=(low - 0.02, 1.005), xlabel="share of inputs, most confident first",
             ylabel="accuracy")  # fmt: skip
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="lower left")
    return figure


def cascade(found: Cascade, comparison: Comparison | None) -> Figure:
    """Accuracy and cost of asking the student first, over the share that the student answers."""
    prices = _prices(comparison)
    priced = TEACHER_KEY in prices and STUDENT_KEY in prices
    figure = Figure(figsize=(11 if priced else 6.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if priced else 1, squeeze=False)[0]
    shares = [point.student_share for point in found.curve]
    for axes in panels:
        axes.axvline(found.student_share, color=GREEN, linestyle=":")
        axes.set(xlim=(0, 1.02), xlabel="share of inputs that the student answers")
        axes.xaxis.set_major_formatter(PERCENT)
    left = panels[0]
    left.plot(shares, [point.accuracy for point in found.curve], color=BLUE, label="cascade",
              drawstyle="steps-post")  # fmt: skip
    left.axhline(found.teacher_accuracy, color=ORANGE, linestyle="--",
                 label=f"teacher alone, {found.teacher_accuracy:.1%}")  # fmt: skip
    left.plot(found.student_share, found.accuracy, "D", color=GREEN, label=_chosen(found))
    left.set(title=f"Cascade: accuracy, n={found.n}", ylabel="accuracy")
    left.margins(y=0.25)
    left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    left.legend(loc="lower left")
    if priced:
        teacher, student = prices[TEACHER_KEY], prices[STUDENT_KEY]
        right = panels[1]
        right.plot(shares, [student + (1 - share) * teacher for share in shares], color=BLUE,
                   label="cascade")  # fmt: skip
        chosen = student + (1 - found.student_share) * teacher
        kind = "student alone" if found.student_share == 1 else "at this threshold"
        right.plot(found.student_share, chosen, "D", color=GREEN, label=f"{kind}, {money(chosen)}")
        right.axhline(
            teacher, color=ORANGE, linestyle="--", label=f"teacher alone, {money(teacher)}"
        )
        currency = f" ({comparison.bill.currency})" if comparison and comparison.bill else ""
        right.set(title=f"Cascade: cost per million queries{currency}", ylim=(0, None))
        right.legend(loc="lower left")
    return figure


def _chosen(found: Cascade) -> str:
    if found.threshold is None:
        return "no threshold reaches the teacher"
    if found.student_share == 1:
        return f"student alone, {found.accuracy:.1%}"
    return f"confidence at least {found.threshold:.3f}, {found.accuracy:.1%}"


def _prices(comparison: Comparison | None) -> dict[str, float]:
    cells = comparison.cells if comparison else ()
    return {cell.key: cell.cost.per_million_queries for cell in cells if cell.cost}


def cost(comparison: Comparison) -> Figure:
    """What a million queries cost, and when the training has paid for itself."""
    bill, prices = comparison.bill, _prices(comparison)
    assert bill is not None
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    titles = [_name(cell.title) for cell in comparison.cells if cell.cost]
    left.barh(titles, list(prices.values()), color=BLUE)
    left.bar_label(left.containers[0], fmt=money, padding=3, fontsize=8)
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set(title=f"Cost per million queries ({bill.currency})")
    queries = np.linspace(0, 2 * (bill.break_even_queries or 500_000), 100)
    right.plot(queries, queries * prices[TEACHER_KEY] / 1e6, color=ORANGE, label="teacher")
    student = bill.training_cost + queries * prices[STUDENT_KEY] / 1e6
    right.plot(queries, student, color=BLUE, label="student, including its training")
    if bill.break_even_queries:
        right.axvline(bill.break_even_queries, color=GREY, linestyle="--",
                      label=f"break-even: {bill.break_even_queries:,.0f} queries")  # fmt: skip
    right.set(title="Total cost", xlabel="queries", ylabel=bill.currency)
    right.locator_params(axis="x", nbins=5)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.legend(loc="lower right")
    return figure
