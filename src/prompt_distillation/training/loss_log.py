"""What a run shows: the plan, what is trained, an example with its loss, a bar, and the losses."""

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from prompt_distillation.data.text import safe_lines
from prompt_distillation.machine import GIB
from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.lora.adapter import TrainedKind
from prompt_distillation.training.manifest import append_losses, start_losses

if TYPE_CHECKING:
    from prompt_distillation.training.memory.plan import TrainingPlan

logger = logging.getLogger(__name__)

WITHIN_OTHERS = {"held_gradients", "layer"}
"""Parts of the memory estimate that are parts of `gradients` and `layers`."""

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
    pairs = zip(ids, labels, strict=True)
    for is_trained, run in itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        tokens = [token for token, _ in run]
        if is_trained:
            for token in tokens:
                text.append(f"[{safe_lines(tokenizer.decode([token]))}]", style="bold green")
        else:
            text.append(safe_lines(tokenizer.decode(tokens)), style="not bold dim")
    console.print(text, soft_wrap=True)


def show_plan(console: Console, plan: "TrainingPlan") -> None:
    """Print the memory estimate and what follows from it."""
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
    together = f" x {plan.processes} processes" if plan.processes > 1 else ""
    console.print(
        f"{plan.rows:,} rows, {plan.tokens:,} tokens an epoch; {plan.steps:,} optimizer steps of "
        f"{batch.rows} rows x {batch.accumulation_steps} pass(es){together}, "
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


def _memory_table(plan: "TrainingPlan") -> Table:
    table = Table(title="Memory estimate per device", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    for name, size in vars(plan.memory).items():
        if name not in WITHIN_OTHERS:
            table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("peak", f"{plan.memory.total / GIB:.2f}", style="bold")
    return table


class ProgressLine(ProgressCallback):  # type: ignore[misc]
    """transformers' bar, with the loss in it instead of a dictionary under it at each step."""

    @classmethod
    def replace_in(cls, trainer: Any) -> None:
        """Take the place of the trainer's own display; without a bar where it has none."""
        trainer.pop_callback(PrinterCallback)
        trainer.add_callback(
            cls() if trainer.pop_callback(ProgressCallback) is not None else HeldOutLog()
        )

    def on_prediction_step(self, *unused: Any, **unused_too: Any) -> None:
        """No second bar for the held-out rows: they take moments."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **unused: Any) -> None:
        """Show the last loss in the bar, and held-out figures on a line of their own."""
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        if "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.4f}", refresh=False)
        if "eval_loss" in logs:
            self.training_bar.write(held_out_line(state, logs))


class HeldOutLog(PrinterCallback):  # type: ignore[misc]
    """Only the held-out figures, as lines of the log: for files and pipes."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **unused: Any) -> None:
        """Log held-out figures."""
        if state.is_world_process_zero and logs and "eval_loss" in logs:
            logger.info(held_out_line(state, logs))


class LossFile(TrainerCallback):  # type: ignore[misc]
    """The table of losses, written during the run: to be watched, and kept if it never ends."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir

    def on_train_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Start the table with what a resumed run has logged so far."""
        if state.is_world_process_zero:
            start_losses(self._output_dir, state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Add a line; the summary at the end of training has no loss of its own."""
        entry = state.log_history[-1]
        if state.is_world_process_zero and ("loss" in entry or "eval_loss" in entry):
            append_losses(self._output_dir, entry)


def held_out_line(state: Any, logs: dict[str, float]) -> str:
    """One line with the step, its training loss, and the held-out figures."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    parts = [f"step {state.global_step}/{state.max_steps}"]
    if losses:
        parts.append(f"loss {losses[-1]:.4f}")
    parts.append(f"held-out loss {logs['eval_loss']:.4f}")
    for key, name in (
        ("eval_accuracy", "accuracy"),
        ("eval_mean_token_accuracy", "token accuracy"),
    ):
        if key in logs:
            parts.append(f"{name} {logs[key]:.1%}")
    return ", ".join(parts)
