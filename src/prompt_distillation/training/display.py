"""What a plan and the start of a run show: memory, what is trained, an example with its loss."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.lora.adapter import TrainedKind
from prompt_distillation.training.memory.estimate import GIB

if TYPE_CHECKING:
    from prompt_distillation.training.memory.plan import RunPlan

WITHIN_OTHERS = {"held_gradients", "layer"}
"""Parts of the account that are parts of `gradients` and `layers`."""

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


def show_plan(console: Console, plan: "RunPlan") -> None:
    """Print the account and what follows from it."""
    console.print(_memory_table(plan))
    if plan.base != plan.base_unquantised:
        linear, experts = (
            (before - after) / GIB
            for before, after in (
                (plan.base_unquantised.linear, plan.base.linear),
                (plan.base_unquantised.experts, plan.base.experts),
            )
        )
        console.print(
            f"4 bits save {linear:.2f} GiB in linear layers and {experts:.2f} GiB in experts; "
            f"{plan.base.rest / GIB:.2f} GiB of embeddings, routers and norms stay as they are"
        )
    batch = plan.micro_batch
    console.print(
        f"{plan.rows:,} rows, {plan.tokens:,} tokens an epoch; {plan.steps:,} optimizer steps of "
        f"{batch.rows} rows x {batch.accumulation_steps} pass(es), "
        f"{plan.tokens_per_step:,.0f} tokens each; activations "
        f"{'recomputed' if plan.gradient_checkpointing else 'kept'}"
    )
    if plan.seconds is not None:
        console.print(
            f"about {math.ceil(plan.seconds / 60)} minute(s) on this GPU, once it is loaded"
        )
    verdict = "fits" if plan.fits else "does not fit"
    console.print(f"{verdict} a device with {plan.capacity / GIB:.0f} GiB")
    if plan.proposal is not None:
        flags, total = plan.proposal
        console.print(f"with {' '.join(flags)}: {total / GIB:.1f} GiB", soft_wrap=True)
    elif not plan.fits:
        console.print(
            "no flag makes it fit one device; use more of them with "
            "ACCELERATE_CONFIG=recipes/accelerate/fsdp2.yaml, or a smaller student"
        )


def _memory_table(plan: "RunPlan") -> Table:
    table = Table(title="Memory per device", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    for name, size in vars(plan.account).items():
        if name not in WITHIN_OTHERS:
            table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("peak", f"{plan.account.total / GIB:.2f}", style="bold")
    return table
