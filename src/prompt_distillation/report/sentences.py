"""Results in words: the same sentences on the screen, in Markdown, and on the page."""

import math
from collections.abc import Iterator, Sequence

from prompt_distillation.data.comparison import STUDENT_KEY, TEACHER_KEY, Bill, Comparison
from prompt_distillation.data.intervals import Interval, percent, with_interval
from prompt_distillation.data.results import (
    Cascade,
    CascadeCheck,
    Confidence,
    CoveragePoint,
    PairedTest,
    Result,
)
from prompt_distillation.tasks import RejectReason

SHOWN_COVERAGES = (0.5, 0.8, 0.9)


def with_bounds(share: float | None, interval: Interval | None) -> str:
    """``95.2% (94.2-96.0)``, for a column whose heading says what the bounds are."""
    if share is None or interval is None:
        return "-"
    return f"{share:.1%} ({interval.low * 100:.1f}-{interval.high * 100:.1f})"


def money(amount: float) -> str:
    """Two decimals, and two significant digits below 1: ``1,234.50``, ``0.0031``."""
    if amount == 0 or abs(amount) >= 1:
        return f"{amount:,.2f}"
    decimals = max(2, 1 - math.floor(math.log10(abs(amount))))
    return f"{amount:.{decimals}f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds below one second; a dash where they are not known."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def speed_sentence(comparison: Comparison) -> str:
    """The student against the teacher; empty unless both were measured."""
    teacher, student = comparison.cell(TEACHER_KEY), comparison.cell(STUDENT_KEY)
    if teacher is None or student is None:
        return ""
    before, after = teacher.tokens_per_query, student.tokens_per_query
    change = f"{abs(1 - after / before):.1%} {'fewer' if after <= before else 'more'}"
    return (
        "Compared with the teacher, the student is "
        f"{teacher.alone.p50 / student.alone.p50:.1f} times faster on a single query, has "
        f"{student.queries_per_second / teacher.queries_per_second:.1f} times the throughput, and "
        f"needs {after:,.0f} tokens per query, in and out, instead of {before:,.0f} ({change})."
    )


def cost_sentence(bill: Bill) -> str:
    """What a query with the student saves, and when the training has paid for itself."""
    saving = (
        f"A query costs {abs(bill.saving_share):.1%} {'less' if bill.saving_share >= 0 else 'more'}"
    )
    after = (
        "never pays for itself"
        if bill.break_even_queries is None
        else f"pays for itself after {bill.break_even_queries:,.0f} queries"
    )
    return (
        f"{saving} with the student than with the teacher. Labelling and training cost "
        f"{money(bill.training_cost)} {bill.currency}, which {after}."
    )


def validity_sentence(result: Result) -> str:
    """How many JSON answers could be parsed, and how many are valid by the schema."""
    total, valid = result.summary.total_samples, result.summary.predicted
    parsed = valid + result.reject_reasons.get(RejectReason.SCHEMA, 0)
    return (
        f"Of {total} answers, {parsed} ({parsed / total:.1%}) are JSON and {valid} "
        f"({valid / total:.1%}) are valid by the schema."
    )


def paired_sentence(test: PairedTest, *, model: str = "this model") -> str:
    """McNemar's test of ``model`` (first) against the teacher."""
    verdict = "a significant difference" if test.is_significant else "no significant difference"
    return (
        f"Inputs that only {model} gets right: {len(test.only_first_right)}; only the teacher: "
        f"{len(test.only_second_right)} (McNemar's exact test, p={test.p_value:.3g}: {verdict})."
    )


def confidence_sentences(confidence: Confidence) -> Iterator[str]:
    """Calibration, coverage and the cascade, a sentence or two each."""
    calibration = confidence.calibration
    yield (
        f"Expected calibration error: {calibration.expected_calibration_error:.3f} "
        f"(n={calibration.n})."
    )
    shares = [
        f"{percent(accuracy_at(confidence.coverage, share))} on the most confident {share:.0%}"
        for share in SHOWN_COVERAGES
    ]
    everything = percent(accuracy_at(confidence.coverage, 1.0))
    yield f"Accuracy: {', '.join(shares)}, {everything} on all inputs."
    yield from cascade_sentences(confidence.cascade)


def accuracy_at(points: Sequence[CoveragePoint], share: float) -> float:
    """Accuracy on the most confident ``share`` of inputs; ties may make them a few more."""
    return next(point.accuracy for point in points if point.coverage >= share - 1e-9)


def cascade_sentences(cascade: Cascade | None) -> Iterator[str]:
    """The student answers first; the teacher answers where the student is not confident."""
    if cascade is None:
        yield "Cascade: not available (it needs gold labels and the teacher's answers)."
        return
    teacher = percent(cascade.teacher_accuracy)
    if cascade.threshold is None:
        yield (
            f"Cascade: no confidence threshold reaches the teacher's accuracy of {teacher}, so the "
            "teacher would answer every input."
        )
    elif cascade.student_share == 1:
        yield (
            "Cascade: no input needs the teacher. The student alone is right on "
            f"{percent(cascade.accuracy)}, the teacher alone on {teacher}."
        )
    else:
        yield (
            f"Cascade: the student answers the {percent(cascade.student_share)} of inputs where "
            f"its confidence is at least {cascade.threshold:.3f}, and the teacher answers the "
            f"rest. Together they are right on {percent(cascade.accuracy)}, the teacher alone on "
            f"{teacher}."
        )
    if cascade.check is not None:
        yield _check_sentence(cascade.check)


def _check_sentence(check: CascadeCheck) -> str:
    return (
        "Cross-checked, with the threshold chosen on one half of the inputs and applied to the "
        f"other: the student answers {percent(check.student_share)}, and "
        f"{with_interval(check.accuracy, check.interval)} of the answers are right. Inputs that "
        f"only the cascade gets right: {check.only_cascade_right}; only the teacher: "
        f"{check.only_teacher_right}."
    )


def comparison_confidence_sentences(comparison: Comparison) -> Iterator[str]:
    """What scoring the student's labels showed, and what a cascade would cost."""
    found = comparison.confidence
    if found is None or found.shown is None:
        reason = comparison.confidence_skipped or f"no input has a {comparison.truth} label"
        yield f"Confidence was not measured: {reason}."
        return
    yield (
        f"Labels were scored in one pass at {found.queries_per_second:.1f} queries/s. The most "
        f"likely label is the written answer on {percent(found.same_answers)} of inputs."
    )
    yield from confidence_sentences(found.shown)
    if found.cascade_cost is not None:
        currency = comparison.bill.currency if comparison.bill else ""
        prices = {cell.key: cell.cost.per_million_queries for cell in comparison.cells if cell.cost}
        yield (
            f"Cost per million queries ({currency}): "
            f"{money(found.cascade_cost.per_million_queries)} with the cascade, "
            f"{money(prices[STUDENT_KEY])} with the student alone, "
            f"{money(prices[TEACHER_KEY])} with the teacher alone."
        )
