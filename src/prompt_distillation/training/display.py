"""What the start of a run shows: what is trained, on how much, and one example with its loss."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompt_distillation.training.adapter import TrainedKind
from prompt_distillation.training.encode import IGNORED, EncodedRow

MAX_EXAMPLE_TOKENS = 200


def show_trained(
    console: Console, kinds: Sequence[TrainedKind], *, trainable: int, total: int
) -> None:
    """Print a line per kind of tensor, and the share of the model that is trained."""
    table = Table(title="What is trained", title_justify="left")
    table.add_column("kind of tensor", overflow="fold")
    for column in ("rank", "count", "parameters"):
        table.add_column(column, justify="right")
    for kind in kinds:
        rank = "full" if kind.rank is None else str(kind.rank)
        table.add_row(kind.kind, rank, str(kind.count), f"{kind.parameters:,}")
    console.print(table)
    console.print(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")


def show_example(console: Console, row: EncodedRow, tokenizer: Any) -> None:
    """Print one row as the model reads it, the tokens with loss set off by brackets and colour."""
    ids, labels = row.input_ids, row.labels
    text = Text("One example, [trained tokens] marked: ", style="bold")
    if len(ids) > MAX_EXAMPLE_TOKENS:
        ids, labels = ids[-MAX_EXAMPLE_TOKENS:], labels[-MAX_EXAMPLE_TOKENS:]
        text.append("… ", style="dim")
    context = [i for i, label in zip(ids, labels, strict=True) if label == IGNORED]
    text.append(tokenizer.decode(context), style="not bold dim")
    for token, label in zip(ids, labels, strict=True):
        if label != IGNORED:
            text.append(f"[{tokenizer.decode([token])}]", style="bold green")
    console.print(text, soft_wrap=True)
