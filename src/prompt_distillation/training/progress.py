"""Progress of a run on the terminal: one bar, and a line at each look at the held-out rows."""

import logging
from typing import Any

from transformers import PrinterCallback, ProgressCallback

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
