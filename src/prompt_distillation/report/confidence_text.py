"""How sure the student is, in sentences: the same on the screen, in Markdown and on the page."""

from collections.abc import Iterator, Sequence

from prompt_distillation.data.comparison import Comparison
from prompt_distillation.data.results import Cascade, CascadeCheck, Confidence, CoveragePoint
from prompt_distillation.report.terminal import money, percent, with_interval

SHOWN_COVERAGES = (0.5, 0.8, 0.9, 1.0)


def confidence_lines(confidence: Confidence) -> Iterator[str]:
    """Calibration, coverage and the cascade, a line or two each."""
    error = confidence.calibration.expected_calibration_error
    yield f"Expected calibration error {error:.3f} (n={confidence.calibration.n})."
    shares = [
        f"{percent(accuracy_at(confidence.coverage, share))} of {name}"
        for share, name in zip(SHOWN_COVERAGES, _coverage_names(), strict=True)
    ]
    yield f"Right on {', '.join(shares)}."
    yield from cascade_lines(confidence.cascade)


def accuracy_at(points: Sequence[CoveragePoint], share: float) -> float:
    """Accuracy over the surest ``share`` of inputs, or as few more as ties make them."""
    return next(point.accuracy for point in points if point.coverage >= share - 1e-9)


def _coverage_names() -> list[str]:
    return [f"the surest {share:.0%}" for share in SHOWN_COVERAGES[:-1]] + ["all"]


def cascade_lines(cascade: Cascade | None) -> Iterator[str]:
    """Student first, the teacher where it is unsure."""
    if cascade is None:
        yield "Cascade: not known (it needs gold labels and the teacher's answers)."
        return
    alone = f"the teacher alone {percent(cascade.teacher_accuracy)}"
    if cascade.threshold is None:
        yield f"Cascade: no threshold reaches {alone}; the teacher would answer everything."
    elif cascade.student_share == 1:
        yield (
            "Cascade: nothing has to fall back to the teacher: the student alone is right on "
            f"{percent(cascade.accuracy)}, {alone}."
        )
    else:
        yield (
            f"Cascade: at a confidence of at least {cascade.threshold:.3f} the student answers, "
            f"{percent(cascade.student_share)} of inputs, the teacher the rest: "
            f"{percent(cascade.accuracy)} right, {alone}."
        )
    if cascade.check is not None:
        yield _check_line(cascade.check)


def _check_line(check: CascadeCheck) -> str:
    return (
        "Checked on inputs that had no say in the threshold (two halves, each answered with the "
        f"threshold of the other): the student answers {percent(check.student_share)}, "
        f"{with_interval(check.accuracy, check.interval)} right; only the cascade right on "
        f"{check.only_cascade_right}, only the teacher on {check.only_teacher_right}."
    )


def comparison_confidence_lines(comparison: Comparison) -> Iterator[str]:
    """What the student's scored labels showed beside the cells, and what a cascade costs."""
    found = comparison.confidence
    if found is None or found.shown is None:
        reason = comparison.confidence_skipped or f"no input has a {comparison.truth} label"
        yield f"Not scored: {reason}."
        return
    yield (
        f"Labels scored in one pass, {found.queries_per_second:.1f} queries/s; the likeliest is "
        f"what the student writes on {percent(found.same_answers)} of inputs."
    )
    yield from confidence_lines(found.shown)
    if found.cascade_cost is not None:
        currency = comparison.bill.currency if comparison.bill else ""
        prices = {cell.key: cell.cost.per_million_queries for cell in comparison.cells if cell.cost}
        yield (
            f"A million queries cost {money(found.cascade_cost.per_million_queries)} {currency} "
            f"with the cascade, {money(prices['student'])} with the student alone, "
            f"{money(prices['teacher'])} with the teacher alone."
        )
