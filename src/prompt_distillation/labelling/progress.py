"""Progress and summary of a labelling run, for a person to read."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.labelling.dataset import Counts
from prompt_distillation.labelling.votes_and_retries import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)

TERMINAL_INTERVAL_SECONDS = 0.25

MOST_FAILURES_SHOWN = 5


class Progress:
    """Counts inputs as they are done and shows the count.

    A bar on a terminal, a plain line now and then elsewhere.
    """

    def __init__(
        self, total: int, *, interval_seconds: float = 10.0, console: "Console | None" = None
    ) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._total = total
        self._parsed = 0
        self._failures: set[str] = set()
        self._started: float | None = None
        self._bar: Bar | None = None
        # By the teacher now; those that the journal had; those that get an earlier one's label.
        self.labelled = self.done_before = self.duplicates = 0
        self.interval_seconds = (
            TERMINAL_INTERVAL_SECONDS if self._console.is_terminal else interval_seconds
        )

    def start(self) -> None:
        """The teacher is ready: the rate counts from now."""
        self._started = time.monotonic()

    def count(self, verdict: Verdict) -> None:
        """The teacher was asked for an input, and it is done."""
        self.labelled += 1
        self._parsed += verdict.answer is not None

    def count_failure(self, reason: str) -> None:
        """A request failed; the first few reasons are shown, each once."""
        if reason not in self._failures and len(self._failures) < MOST_FAILURES_SHOWN:
            self._failures.add(reason)
            logger.warning("a request failed: %s", " ".join(reason.split()))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar while the block runs, if there is a terminal to show it on."""
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

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
            self._bar.update(task, completed=self._done, rate=self._rate_text)
        elif not self._console.is_terminal:
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """One plain line: ``labelled 512/2101 (24.4%), 98.1 inputs/s, 99.8% parsed, ...``."""
        share = self._done / self._total if self._total else 1.0
        return f"labelled {self._done}/{self._total} ({share:.1%}), {self._rate_text}{self._eta}"

    def totals(self) -> str:
        """What the run did: ``labelled 9,995 inputs; 4 duplicates of them; ...``."""
        parts = [f"labelled {self.labelled:,} inputs"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates get the same labels")
        if self.done_before:
            parts.append(f"{self.done_before:,} were labelled before")
        return "; ".join(parts)

    @property
    def _done(self) -> int:
        return self.labelled + self.done_before + self.duplicates

    @property
    def _rate(self) -> float:
        """Inputs a second since the teacher was ready."""
        if self._started is None:
            return 0.0
        return self.labelled / max(time.monotonic() - self._started, 1e-9)

    @property
    def _rate_text(self) -> str:
        if not self.labelled:
            return "waiting for the first answer" if self._started else "loading the teacher"
        return f"{self._rate:,.1f} inputs/s, {self._parsed / self.labelled:.1%} parsed"

    @property
    def _eta(self) -> str:
        left = self._total - self._done
        if not self._rate or not left:
            return ""
        minutes, seconds = divmod(round(left / self._rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02}:{seconds:02} left"


def print_summary(counts: Counts, console: "Console", *, rejects: Path) -> None:
    """Print labels, rejects, tokens, and the teacher's accuracy where gold labels are known."""
    from rich.table import Table

    table = Table(title="labels", title_justify="left", show_header=False)
    for label, count in counts.labels.most_common():
        share = count / max(counts.inputs, 1)
        table.add_row(label, f"{count:,}", f"{share:6.1%}", "█" * round(40 * share))
    if counts.labels:
        console.print(table)
    for line in summary_lines(counts, rejects=rejects):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def summary_lines(counts: Counts, *, rejects: Path) -> list[str]:
    """The summary without its table, one fact a line."""
    lines = [
        f"inputs      {counts.inputs:,}: {counts.train:,} to train on, {counts.held_out:,} held "
        f"out, {counts.rejected:,} rejected; {counts.duplicates:,} duplicates labelled with "
        "their first",
    ]
    for reason, count in counts.rejects.most_common():
        lines.append(f"rejected    {count:,} {reason}")
    if counts.disagreements:
        lines.append(f"votes       {counts.disagreements:,} inputs got votes for several answers")
    if counts.corrected:
        lines.append(f"corrected   {counts.corrected:,} answers by a person")
    if counts.repaired:
        lines.append(f"repaired    {counts.repaired:,} answers held half characters, now U+FFFD")
    lines.append(
        f"requests    {counts.requests:,}, {counts.retries:,} of them retries; tokens in "
        f"{counts.prompt_tokens:,} ({counts.cached_tokens:,} from the prefix cache), out "
        f"{counts.completion_tokens:,}"
    )
    if counts.logprob_tokens:
        lines.append(
            f"soft labels {counts.logprob_tokens:,} tokens of answers, "
            f"{counts.logprob_bytes / counts.logprob_tokens:.1f} bytes a token"
        )
    if counts.gold:
        lines.append(f"accuracy    {accuracy_line(counts)}")
    if counts.rejected > counts.inputs / 2:
        lines.append(
            f"most inputs got no label: read {rejects}; where answers were cut, raise "
            "--max_tokens, and a teacher that does not think needs --no_thinking"
        )
    return lines


def accuracy_line(counts: Counts) -> str:
    """The teacher against gold, with n and a 95 % interval; says so where no gold is known."""
    interval = wilson_interval(counts.gold_correct, counts.gold)
    if interval is None:
        return "unknown: no input has a gold label and an answer"
    return (
        f"{counts.gold_correct / counts.gold:.2%} of gold (n = {counts.gold:,}, 95 % "
        f"interval {interval.low:.2%} to {interval.high:.2%})"
    )
