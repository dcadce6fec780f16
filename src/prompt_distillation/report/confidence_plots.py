"""Pictures of how sure the student is, and of the bill."""

import numpy as np
from matplotlib.figure import Figure

from prompt_distillation.evaluation.comparison_file import STUDENT_KEY, TEACHER_KEY, Comparison
from prompt_distillation.evaluation.schema import Result
from prompt_distillation.report.drawing import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GREY,
    ORANGE,
    one_axes,
    whisker,
)


def calibration(result: Result) -> Figure:
    """Accuracy against confidence; on the diagonal, a confidence means what it says."""
    assert result.confidence is not None
    measured = result.confidence.calibration
    figure, axes = one_axes(5.2, 5)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="means what it says")
    for part in measured.bins:
        axes.plot(part.confidence, part.accuracy, "o", color=BLUE)
        whisker(axes, part.confidence, part.accuracy, part.interval)
        axes.annotate(f"n={part.n}", (part.confidence, part.accuracy), fontsize=7,
                      textcoords="offset points", xytext=(5, -9))  # fmt: skip
    error = measured.expected_calibration_error
    axes.set(title=f"Calibration: ECE {error:.3f}, n={measured.n}", xlim=(0, 1.02), ylim=(0, 1.02),
             xlabel="confidence", ylabel="accuracy, 95 % interval")  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    return figure


def coverage(result: Result) -> Figure:
    """Accuracy over the surest inputs, and the cascade where there is one."""
    assert result.confidence is not None
    points, cascade = result.confidence.coverage, result.confidence.cascade
    figure, axes = one_axes(6, 4)
    axes.plot([p.coverage for p in points], [p.accuracy for p in points], color=BLUE,
              label="student, the surest first")  # fmt: skip
    if cascade is not None:
        axes.axhline(cascade.teacher_accuracy, color=ORANGE, linestyle="--", label="teacher alone")
        axes.plot(cascade.student_share, cascade.accuracy, "D", color=GREEN,
                  label=f"cascade: the student answers {cascade.student_share:.0%}")  # fmt: skip
    axes.set(title=f"Accuracy and coverage, n={result.confidence.calibration.n}", xlim=(0, 1.02),
             xlabel="share of inputs answered by the student", ylabel="accuracy")  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    return figure


def cost(comparison: Comparison) -> Figure:
    """What a million queries cost, and when the training is paid for."""
    bill, cells = comparison.bill, [cell for cell in comparison.cells if cell.cost is not None]
    assert bill is not None
    figure = Figure(figsize=(11, 4), layout="constrained", dpi=DOTS_PER_INCH)
    left, right = figure.subplots(1, 2)
    prices = {cell.key: cell.cost.per_million_queries for cell in cells if cell.cost}
    left.barh([cell.title for cell in cells], list(prices.values()), color=BLUE)
    left.bar_label(left.containers[0], fmt="%.2f", padding=3, fontsize=8)
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
