"""One table out of several results of evaluate.py, all of one task.

    python scripts/quickstart_table.py "teacher, with prompt=data/quickstart/teacher.json" ...

Labels and JSON are measured against gold answers, texts against the teacher's; 95 % intervals are
Wilson's, that of an F1 is the bootstrap over inputs. Of JSON: the share of answers that are JSON,
that are valid by the schema, that are right as a whole, and the F1 of the leaves. Tokens in include
the prompt, tokens out the reasoning; seconds are what one query costs in a full batch on this
machine, start-up left out. A dash is what is not known: the seconds of answers that an earlier run
had paid for.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prompt_distillation.cli.running import run_command
from prompt_distillation.data.intervals import Interval, wilson_interval
from prompt_distillation.data.result_files import read_result
from prompt_distillation.data.results import Result
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.tasks import RejectReason

Cell = tuple[str, str]
"""A heading and what stands under it."""


def cells_of(result: Result, *, path: Path) -> Iterator[Cell]:
    """What was measured of one model, by the kind of its answers."""
    summary, usage = result.summary, result.usage
    if result.text_scores is not None:
        for name, score in result.text_scores.compared:
            yield name, score.shown
        yield "n", str(result.text_scores.n)
    elif result.truth != "gold" or summary.accuracy_interval is None:
        raise InputError(f"{path}: not measured against gold labels; evaluate with --truth gold")
    elif result.field_scores is not None:
        yield from _json_cells(result)
    else:
        low, high = summary.accuracy_interval.low, summary.accuracy_interval.high
        yield "accuracy", f"{summary.accuracy:.1%}"
        yield "95 % interval", f"{low:.1%} - {high:.1%}"
        yield "n", str(summary.evaluated)
    yield "tokens in", _mean([item.prompt_tokens for item in result.predictions], digits=0)
    yield "tokens out", _mean([item.completion_tokens for item in result.predictions], digits=1)
    yield "s / query", f"{usage.seconds_per_query:.4f}" if usage else "-"


def _json_cells(result: Result) -> Iterator[Cell]:
    total, reasons = result.summary.total_samples, result.reject_reasons
    valid = result.summary.predicted
    yield "JSON", _share(valid + reasons.get(RejectReason.SCHEMA, 0), total)
    yield "valid", _share(valid, total)
    yield "all right", _share(result.summary.correct, result.summary.evaluated)
    if scores := result.field_scores:
        yield "leaf F1", _percent(scores.f1, scores.f1_interval)
    yield "n", str(result.summary.evaluated)


def _share(count: int, total: int) -> str:
    return _percent(count / total, wilson_interval(count, total))


def _percent(value: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{value:.1%}"
    return f"{value:.1%} ({interval.low * 100:.1f}-{interval.high * 100:.1f})"


def _mean(values: Sequence[int | None], *, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.{digits}f}" if known else "-"


def main(argv: Sequence[str]) -> None:
    """Read ``NAME=PATH`` arguments and print the table."""
    if not argv:
        raise ConfigError("nothing to compare; pass NAME=RESULT.json, once per row")
    rows: dict[str, dict[str, str]] = {}
    for argument in argv:
        name, separator, path = argument.partition("=")
        if not separator:
            raise ConfigError(f"{argument!r} is not NAME=RESULT.json")
        result = read_result(Path(path))
        rows[name] = dict(cells_of(result, path=Path(path)))
        if rows[name].keys() != next(iter(rows.values())).keys():
            raise InputError(f"{path}: measured otherwise than the results before it")
    truth = {"gold": "gold labels", "teacher": "the teacher's answers"}[result.truth]
    table = Table(title=f"Held-out inputs, against {truth}", title_justify="left")
    for place, heading in enumerate(["", *rows[name]]):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells.values())
    console = Console()
    if not console.is_terminal:
        console.width = 170  # a pipe has no width of its own: rich would cut the table at 80
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
