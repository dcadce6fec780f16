"""Say what this machine has, what is missing, and which recipe fits it.

    prompt-distillation doctor            # a table
    prompt-distillation doctor --json     # the same for a script

Exit code 0, or 1 if an installed package is not the version this project is pinned to.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import Settings, option
from prompt_distillation.machine import Check, Status, examine_machine

BROKEN = 1

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "yellow"),
    "broken": ("BROKEN", "bold red"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Settings):
    """The flags of `prompt-distillation doctor`."""

    json: bool = option(False, "print one JSON object instead of the table")
    hub_timeout_seconds: float = option(
        3.0, "longest wait for the model hub to answer, seconds", low=0.1, high=60
    )


def main(argv: Sequence[str]) -> int:
    """Examine the machine and print what was found; 1 if a pin is broken."""
    config = parse_options(DoctorConfig, argv, description=__doc__ or "")
    checks = examine_machine(hub_timeout_seconds=config.hub_timeout_seconds)
    broken = any(check.status == "broken" for check in checks)
    if config.json:
        found = {"ok": not broken, "checks": [dataclasses.asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    else:
        print_table(checks)
    return BROKEN if broken else 0


def print_table(checks: Sequence[Check]) -> None:
    """Print a table on a terminal; elsewhere one line a check, so that grep finds it whole."""
    console = Console()
    if not console.is_terminal:
        for check in checks:
            advice = f"; {check.advice}" if check.advice else ""
            mark = _MARKS[check.status][0]
            sys.stdout.write(f"{mark:<7}{check.name:<12}{check.found}{advice}\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.status]
        advice = f"\n→ {check.advice}" if check.advice else ""
        table.add_row(f"[{style}]{mark}[/]", check.name, escape(check.found + advice))
    console.print(table)
