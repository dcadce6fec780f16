"""A comparison as Markdown, for a README or a pull request."""

from collections.abc import Iterator

from prompt_distillation.data.comparison import Bill, Cell, Comparison, MonthlySaving
from prompt_distillation.data.results import PairedTest
from prompt_distillation.report.confidence_text import comparison_confidence_lines
from prompt_distillation.report.summary import paired_text
from prompt_distillation.report.terminal import money, with_interval

HEADER = (
    "| | accuracy (95 % CI) | n | tokens in / out | first token, alone | p50 / p95 alone "
    "| p50 / p95 at {concurrency} | queries/s |"
)
RULE = "|---|---|---|---|---|---|---|---|"


def comparison_markdown(comparison: Comparison, paired: PairedTest | None = None) -> str:
    """The table of the cells, where prices were given the bill, and how sure the student is.

    Args:
        comparison: what was measured.
        paired: the student (first) against the teacher on the same inputs, where both have labels.
    """
    concurrency = comparison.cells[0].loaded.concurrency
    lines = [HEADER.format(concurrency=f"{concurrency} in flight"), RULE]
    lines += [_row(cell) for cell in comparison.cells]
    lines += ["", speed_line(comparison)] if speed_line(comparison) else []
    lines += ["", f"{paired_text(paired, first='the student')}."] if paired else []
    if any(cell.cost for cell in comparison.cells):
        lines += ["", *_cost_lines(comparison)]
    lines += ["", "The student's confidence:", ""]
    lines += [f"- {line}" for line in comparison_confidence_lines(comparison)]
    return "\n".join(lines) + "\n"


def _row(cell: Cell) -> str:
    cached = f" ({cell.cached_tokens_per_query:.0f} cached)" if cell.cached_tokens_per_query else ""
    return (
        f"| {cell.title} | {with_interval(cell.accuracy, cell.interval)} | {cell.n} "
        f"| {cell.prompt_tokens_per_query:.0f}{cached} / {cell.completion_tokens_per_query:.1f} "
        f"| {milliseconds(cell.alone.first_token_p50)} "
        f"| {milliseconds(cell.alone.p50)} / {milliseconds(cell.alone.p95)} "
        f"| {milliseconds(cell.loaded.p50)} / {milliseconds(cell.loaded.p95)} "
        f"| {cell.queries_per_second:.1f} |"
    )


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three digits at most; a dash where they are not known."""
    return (
        "-"
        if seconds is None
        else f"{seconds * 1000:.3g} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
    )


def speed_line(comparison: Comparison) -> str:
    """The student against the teacher in one sentence; empty unless both were measured."""
    teacher, student = comparison.cell("teacher"), comparison.cell("student")
    if teacher is None or student is None:
        return ""
    tokens = teacher.prompt_tokens_per_query + teacher.completion_tokens_per_query
    fewer = tokens / (student.prompt_tokens_per_query + student.completion_tokens_per_query)
    faster = teacher.alone.p50 / student.alone.p50
    return (
        f"The student against the teacher: {faster:.1f} times faster alone, "
        f"{student.queries_per_second / teacher.queries_per_second:.1f} times the "
        f"throughput, {fewer:.1f} times fewer tokens."
    )


def _cost_lines(comparison: Comparison) -> Iterator[str]:
    currency = comparison.bill.currency if comparison.bill else ""
    yield f"| | {currency} per million queries | by |"
    yield "|---|---|---|"
    for cell in comparison.cells:
        if cell.cost:
            yield f"| {cell.title} | {money(cell.cost.per_million_queries)} | {cell.cost.basis} |"
    if comparison.bill:
        yield ""
        yield from _bill_lines(comparison.bill)


def _bill_lines(bill: Bill) -> Iterator[str]:
    after = (
        f"{bill.break_even_queries:,.0f} queries"
        if bill.break_even_queries is not None
        else "never: a query with the student costs no less"
    )
    yield (
        f"A query with the student costs {bill.saving_share:.1%} less. Labelling and training: "
        f"{money(bill.training_cost)} {bill.currency}, paid for after {after}."
    )
    yield ""
    yield "| queries a month | teacher | student | saving | return in a year | payback |"
    yield "|---|---|---|---|---|---|"
    for month in bill.months:
        yield (
            f"| {month.queries_per_month:,} | {money(month.before)} | {money(month.after)} "
            f"| {money(month.saving)} | {_times(month)} | {_days(month)} |"
        )


def _times(month: MonthlySaving) -> str:
    return "-" if month.return_on_training is None else f"{month.return_on_training:,.1f}x"


def _days(month: MonthlySaving) -> str:
    if month.payback_days is None:
        return "never"
    if month.payback_days < 1:
        return f"{month.payback_days * 24:.1f} hours"
    return f"{month.payback_days:,.1f} days"
