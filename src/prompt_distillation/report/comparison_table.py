"""A comparison as Markdown, for a README or a pull request."""

from collections.abc import Iterator, Sequence

from prompt_distillation.data.comparison import Bill, Cell, Comparison, MonthlySaving
from prompt_distillation.data.intervals import with_interval
from prompt_distillation.report.sentences import (
    comparison_confidence_sentences,
    cost_sentence,
    milliseconds,
    money,
    paired_sentence,
    speed_sentence,
)

HEADER = (
    "| | {quality} | n | tokens in / out | time to first token | latency p50 / p95, one at a time "
    "| latency p50 / p95, {concurrency} at a time | queries/s |"
)
RULE = "|---|---|---|---|---|---|---|---|"


def comparison_markdown(comparison: Comparison) -> str:
    """The table of the cells, the costs where prices were given, and the student's confidence."""
    paired = comparison.student_against_teacher
    is_text = any(cell.chrf is not None for cell in comparison.cells)
    quality = f"chrF to the {comparison.truth} texts" if is_text else "accuracy"
    concurrency = comparison.cells[0].loaded.concurrency
    lines = [HEADER.format(quality=quality, concurrency=concurrency), RULE]
    lines += [_row(cell) for cell in comparison.cells]
    lines += _text_lines(comparison.cells)
    speed = speed_sentence(comparison)
    lines += ["", speed] if speed else []
    lines += ["", paired_sentence(paired, model="the student")] if paired else []
    if any(cell.cost for cell in comparison.cells):
        lines += ["", *_cost_lines(comparison)]
    lines += ["", "Confidence of the student:", ""]
    lines += [f"- {line}" for line in comparison_confidence_sentences(comparison)]
    return "\n".join(lines) + "\n"


def _row(cell: Cell) -> str:
    cached = f" ({cell.cached_tokens_per_query:.0f} cached)" if cell.cached_tokens_per_query else ""
    quality = with_interval(cell.accuracy, cell.interval)
    if cell.chrf is not None:
        quality = cell.chrf.shown
    return (
        f"| {cell.title} | {quality} | {cell.n} "
        f"| {cell.prompt_tokens_per_query:.0f}{cached} / {cell.completion_tokens_per_query:.1f} "
        f"| {milliseconds(cell.alone.first_token_p50)} "
        f"| {milliseconds(cell.alone.p50)} / {milliseconds(cell.alone.p95)} "
        f"| {milliseconds(cell.loaded.p50)} / {milliseconds(cell.loaded.p95)} "
        f"| {cell.queries_per_second:.1f} |"
    )


def _text_lines(cells: Sequence[Cell]) -> list[str]:
    """Every figure of texts, with its value for each model; none for other kinds."""
    names = dict.fromkeys(name for cell in cells for name in cell.text_scores or {})
    if not names:
        return []
    rows = [["figure of the texts (95 % interval)", *(cell.title for cell in cells)]]
    rows.append(["---"] * len(rows[0]))
    for name in names:
        scores = [(cell.text_scores or {}).get(name) for cell in cells]
        rows.append([name, *(score.shown if score else "-" for score in scores)])
    return ["", *(f"| {' | '.join(row)} |" for row in rows)]


def _cost_lines(comparison: Comparison) -> Iterator[str]:
    currency = comparison.bill.currency if comparison.bill else ""
    yield f"| | cost per million queries ({currency}) | based on |"
    yield "|---|---|---|"
    for cell in comparison.cells:
        if cell.cost:
            yield f"| {cell.title} | {money(cell.cost.per_million_queries)} | {cell.cost.basis} |"
    if comparison.bill:
        yield ""
        yield from _bill_lines(comparison.bill)


def _bill_lines(bill: Bill) -> Iterator[str]:
    yield cost_sentence(bill)
    yield ""
    yield (
        "| queries per month | teacher | student | saving | return after a month "
        "| return after a year | break-even |"
    )
    yield "|---|---|---|---|---|---|---|"
    for month in bill.months:
        gain = month.return_on_training
        yield (
            f"| {month.queries_per_month:,} | {money(month.before)} | {money(month.after)} "
            f"| {money(month.saving)} | {_times(gain, months=1)} | {_times(gain, months=12)} "
            f"| {_days(month)} |"
        )


def _times(gain: float | None, *, months: int) -> str:
    """So many months of the saving over the cost of the training, from that of a year."""
    return "-" if gain is None else f"{gain * months / 12:,.1f}x"


def _days(month: MonthlySaving) -> str:
    if month.payback_days is None:
        return "never"
    if month.payback_days < 1:
        return f"after {month.payback_days * 24:.1f} hours"
    return f"after {month.payback_days:,.1f} days"
