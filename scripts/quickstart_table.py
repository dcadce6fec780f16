"""One table out of several results of evaluate.py.

    python scripts/quickstart_table.py "teacher, with prompt=data/quickstart/teacher.json" ...

Accuracy is against gold labels, with its 95 % interval; tokens in include the prompt, tokens out
the reasoning; seconds are what one query costs in a full batch on this machine, start-up left out.
A dash is what is not known: the seconds of answers that an earlier run had paid for.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prompt_distillation.cli.running import run_command
from prompt_distillation.data.result_files import read_result
from prompt_distillation.data.results import Result
from prompt_distillation.errors import ConfigError, InputError

HEADINGS = ("", "accuracy", "95 % interval", "n", "tokens in", "tokens out", "s / query")


def row_of(name: str, result: Result, *, path: Path) -> tuple[str, ...]:
    """Cells of one model, as texts."""
    summary, usage = result.summary, result.usage
    if result.truth != "gold" or summary.accuracy is None or summary.accuracy_interval is None:
        raise InputError(f"{path}: not measured against gold labels; evaluate with --truth gold")
    interval = summary.accuracy_interval
    tokens_in = [item.prompt_tokens for item in result.predictions]
    tokens_out = [item.completion_tokens for item in result.predictions]
    return (
        name,
        f"{summary.accuracy:.1%}",
        f"{interval.low:.1%} - {interval.high:.1%}",
        str(summary.evaluated),
        _mean(tokens_in, digits=0),
        _mean(tokens_out, digits=1),
        f"{usage.seconds_per_query:.4f}" if usage else "-",
    )


def _mean(values: Sequence[int | None], *, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.{digits}f}" if known else "-"


def main(argv: Sequence[str]) -> None:
    """Read ``NAME=PATH`` arguments and print the table."""
    if not argv:
        raise ConfigError("nothing to compare; pass NAME=RESULT.json, once per row")
    table = Table(title="Held-out inputs, against gold labels", title_justify="left")
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for argument in argv:
        name, separator, path = argument.partition("=")
        if not separator:
            raise ConfigError(f"{argument!r} is not NAME=RESULT.json")
        table.add_row(*row_of(name, read_result(Path(path)), path=Path(path)))
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a pipe has no width of its own: rich would cut the table at 80
    console.print(table)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
