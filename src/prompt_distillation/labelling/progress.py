"""How far the labelling is: a bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

from prompt_distillation.labelling.votes import Verdict

TERMINAL_INTERVAL_SECONDS = 0.25


class Progress:
    """Counts inputs as they are done and shows the count.

    Args:
        total: inputs to go through.
        interval_seconds: between two plain lines; a terminal's bar is drawn more often.
        console: where it is shown; stderr by default.
    """

    def __init__(
        self, total: int, *, interval_seconds: float = 10.0, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True)
        self._total = total
        self._skipped = self._labelled = self._parsed = self._completion_tokens = 0
        self._started: float | None = None
        self._bar: Bar | None = None
        self.interval_seconds = (
            TERMINAL_INTERVAL_SECONDS if self._console.is_terminal else interval_seconds
        )

    @property
    def labelled(self) -> int:
        """Inputs this run has asked the teacher for."""
        return self._labelled

    def start(self) -> None:
        """The teacher is ready: the rate counts from now."""
        self._started = time.monotonic()

    def skip(self) -> None:
        """An input was done before, or its duplicate is in work."""
        self._skipped += 1

    def count(self, verdict: Verdict) -> None:
        """An input is done."""
        self._labelled += 1
        self._parsed += verdict.answer is not None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar while the block runs, if there is a terminal to show it on."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("labelling"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bar(*columns, console=self._console) as self._bar:
            self._bar.add_task("labelling", total=self._total, rate="loading the teacher")
            yield
        self._bar = None

    def show(self) -> None:
        """Draw the bar, or print the line."""
        if self._bar is not None:
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=self._done, rate=f"{self._rate_text}")
        elif not self._console.is_terminal:
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """One plain line: ``labelled 512/2101 (24.4 %), 98.1 inputs/s, ...``."""
        share = self._done / self._total if self._total else 1.0
        return f"labelled {self._done}/{self._total} ({share:.1%}), {self._rate_text}{self._eta}"

    @property
    def _done(self) -> int:
        return self._skipped + self._labelled

    @property
    def _rate(self) -> float:
        """Inputs a second since the teacher was ready."""
        if self._started is None:
            return 0.0
        return self._labelled / max(time.monotonic() - self._started, 1e-9)

    @property
    def _rate_text(self) -> str:
        parsed = self._parsed / self._labelled if self._labelled else 1.0
        return f"{self._rate:,.1f} inputs/s, {parsed:.1%} parsed"

    @property
    def _eta(self) -> str:
        left = self._total - self._done
        if not self._rate or not left:
            return ""
        minutes, seconds = divmod(round(left / self._rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02}:{seconds:02} left"
