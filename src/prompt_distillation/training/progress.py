"""Progress of a run: a bar, a line at each look at the held-out rows, and the losses as a file."""

import logging
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from prompt_distillation.training.outputs import append_losses, start_losses

logger = logging.getLogger(__name__)


class ProgressLine(ProgressCallback):  # type: ignore[misc]
    """transformers' bar, with the loss in it instead of a dictionary under it at each step."""

    @classmethod
    def replace_in(cls, trainer: Any) -> None:
        """Take the place of the trainer's own display; without a bar where it has none."""
        trainer.pop_callback(PrinterCallback)
        trainer.add_callback(
            cls() if trainer.pop_callback(ProgressCallback) is not None else HeldOutLine()
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


class HeldOutLine(PrinterCallback):  # type: ignore[misc]
    """Only the held-out figures, as lines of the log: for files and pipes."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **unused: Any) -> None:
        """Log held-out figures."""
        if state.is_world_process_zero and logs and "eval_loss" in logs:
            logger.info(held_out_line(state, logs))


class LossFile(TrainerCallback):  # type: ignore[misc]
    """The table of losses while the run goes on: to be watched, and there if it never ends."""

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
