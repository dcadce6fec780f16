"""What a labelling run came to, for a person to read."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.labelling.counts import Counts


def print_summary(counts: Counts, console: Console, *, rejects: Path) -> None:
    """Print labels, rejects, tokens, and the teacher's accuracy where gold labels are known.

    Args:
        counts: of the dataset.
        console: to print on.
        rejects: the file of the inputs that got no label, for a person to read.
    """
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
    if counts.disputed:
        lines.append(
            f"disputed    {counts.disputed:,} inputs whose votes were not all for one answer"
        )
    if counts.corrected:
        lines.append(f"corrected   {counts.corrected:,} answers by a person")
    lines.append(
        f"requests    {counts.requests:,}, {counts.retries:,} of them retries; tokens in "
        f"{counts.prompt_tokens:,} ({counts.cached_tokens:,} from the prefix cache), out "
        f"{counts.completion_tokens:,}"
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
