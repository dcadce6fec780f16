"""Pictures of how sure the student is, and of the bill."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prompt_distillation.data.comparison import STUDENT_KEY, TEACHER_KEY, Comparison
from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.data.results import Cascade, Confidence
from prompt_distillation.report.drawing import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    one_axes,
    whisker,
)
from prompt_distillation.report.terminal import money


def calibration(confidence: Confidence) -> Figure:
    """Accuracy against confidence; on the diagonal, a confidence means what it says."""
    measured = confidence.calibration
    figure, (axes, counts) = _two_floors(6, 5.4)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="means what it says")
    for part in measured.bins:
        whisker(axes, part.confidence, part.accuracy, part.interval)
    axes.plot(
        [part.confidence for part in measured.bins], [part.accuracy for part in measured.bins],
        "o", color=BLUE, label="inputs of one bin, 95 % interval", clip_on=False,
    )  # fmt: skip
    error = measured.expected_calibration_error
    axes.set(title=f"Calibration: ECE {error:.3f}, n={measured.n}", ylabel="accuracy",
             xlim=(0, 1.02), ylim=(0, 1.05))  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    width = measured.bins[0].high - measured.bins[0].low
    bars = counts.bar([part.low + width / 2 for part in measured.bins],
                      [part.n for part in measured.bins], 0.9 * width, color=SKY)  # fmt: skip
    counts.bar_label(bars, fontsize=8, padding=2)
    counts.set(xlabel="confidence", ylabel="inputs", xlim=(0, 1.02))
    counts.margins(y=0.3)
    return figure


def _two_floors(width: float, height: float) -> tuple[Figure, Any]:
    """A figure with a low pair of axes under a high one, on one x axis."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DOTS_PER_INCH)
    floors = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for axes in floors:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, floors


def coverage(confidence: Confidence) -> Figure:
    """Accuracy over the surest inputs, with the threshold along it."""
    points, n = confidence.coverage, confidence.calibration.n
    figure, axes = one_axes(6.5, 4.2)
    shares = [point.coverage for point in points]
    intervals = [wilson_interval(round(p.accuracy * p.coverage * n), round(p.coverage * n))
                 for p in points]  # fmt: skip
    known = [interval for interval in intervals if interval is not None]
    axes.fill_between(shares, [i.low for i in known], [i.high for i in known], color=SKY,
                      alpha=0.35, linewidth=0, label="95 % interval")  # fmt: skip
    axes.plot(shares, [point.accuracy for point in points], color=BLUE,
              label="student, the surest first")  # fmt: skip
    # The surest few have an interval as wide as the picture; it need not fit.
    low = min(interval.low for interval in known[len(known) // 5 :])
    if confidence.cascade is not None:
        teacher = confidence.cascade.teacher_accuracy
        axes.axhline(teacher, color=ORANGE, linestyle="--", label=f"teacher alone {teacher:.1%}")
        low = min(low, teacher)
    axes.set(title=f"Accuracy and coverage, n={n}", xlim=(0, 1.02), ylim=(low - 0.02, 1.005),
             xlabel="share of inputs answered, the surest first", ylabel="accuracy")  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def cascade(found: Cascade, comparison: Comparison | None) -> Figure:
    """Accuracy of student-first, and its cost, over the share that the student answers."""
    prices = _prices(comparison)
    priced = TEACHER_KEY in prices and STUDENT_KEY in prices
    figure = Figure(figsize=(11 if priced else 6.5, 4.2), layout="constrained", dpi=DOTS_PER_INCH)
    panels = figure.subplots(1, 2 if priced else 1, squeeze=False)[0]
    shares = [point.student_share for point in found.curve]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(found.student_share, color=GREEN, linestyle=":")
        axes.set(xlim=(0, 1.02), xlabel="share of inputs that the student answers")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    left = panels[0]
    left.plot(shares, [point.accuracy for point in found.curve], color=BLUE, label="cascade",
              drawstyle="steps-post")  # fmt: skip
    left.axhline(found.teacher_accuracy, color=ORANGE, linestyle="--",
                 label=f"teacher alone {found.teacher_accuracy:.1%}")  # fmt: skip
    left.plot(found.student_share, found.accuracy, "D", color=GREEN, label=_chosen(found))
    left.set(title=f"Cascade: accuracy, n={found.n}", ylabel="accuracy")
    left.margins(y=0.25)
    left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    left.legend(frameon=False, fontsize=8, loc="lower left")
    if priced:
        assert comparison is not None
        teacher, student = prices[TEACHER_KEY], prices[STUDENT_KEY]
        right = panels[1]
        right.plot(shares, [student + (1 - share) * teacher for share in shares], color=BLUE,
                   label="cascade")  # fmt: skip
        chosen = student + (1 - found.student_share) * teacher
        right.plot(found.student_share, chosen, "D", color=GREEN, label=money(chosen))
        right.axhline(
            teacher, color=ORANGE, linestyle="--", label=f"teacher alone {money(teacher)}"
        )
        currency = comparison.bill.currency if comparison.bill else "cost"
        right.set(title=f"Cascade: {currency} per million queries", ylim=(0, None))
        right.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _chosen(found: Cascade) -> str:
    if found.threshold is None:
        return "no threshold is as good as the teacher"
    if found.student_share == 1:
        return f"nothing has to fall back: {found.accuracy:.1%}"
    return f"confidence at least {found.threshold:.3f}: {found.accuracy:.1%}"


def _prices(comparison: Comparison | None) -> dict[str, float]:
    cells = comparison.cells if comparison else ()
    return {cell.key: cell.cost.per_million_queries for cell in cells if cell.cost}


def cost(comparison: Comparison) -> Figure:
    """What a million queries cost, and when the training is paid for."""
    bill, cells = comparison.bill, [cell for cell in comparison.cells if cell.cost is not None]
    assert bill is not None
    figure = Figure(figsize=(11, 4), layout="constrained", dpi=DOTS_PER_INCH)
    left, right = figure.subplots(1, 2)
    prices = _prices(comparison)
    left.barh([cell.title for cell in cells], list(prices.values()), color=BLUE)
    left.bar_label(left.containers[0], fmt=money, padding=3, fontsize=8)
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set(title=f"{bill.currency} per million queries")
    end = 2 * (bill.break_even_queries or 500_000)
    queries = np.linspace(0, end, 100)
    right.plot(queries, queries * prices[TEACHER_KEY] / 1e6, color=ORANGE, label="teacher")
    student = bill.training_cost + queries * prices[STUDENT_KEY] / 1e6
    right.plot(queries, student, color=BLUE, label="student, with its training")
    if bill.break_even_queries:
        right.axvline(bill.break_even_queries, color=GREY, linestyle="--",
                      label=f"break-even: {bill.break_even_queries:,.0f} queries")  # fmt: skip
    right.set(title="Paid for after", xlabel="queries", ylabel=bill.currency)
    right.locator_params(axis="x", nbins=5)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.legend(frameon=False, fontsize=8)
    return figure
