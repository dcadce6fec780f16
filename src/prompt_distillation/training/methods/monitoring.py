"""What the trainers of all methods share: held-out figures that mean something, and a watch.

- The held-out loss is the mean over tokens, not over batches of their means, and rows that several
  processes repeat to fill a last batch count once.
- A loss that is not a finite number stops the run, before the next checkpoint.
- Every line of the log has tokens and rows per second and the memory.
"""

import math
import resource
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from prompt_distillation.errors import DivergedError
from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.flops import peak_flops, training_flops_per_token
from prompt_distillation.training.held_out_answers import (
    Question,
    answer_greedily,
    count_right,
    until_end,
)

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class Monitored(_Base):  # type: ignore[misc]
    """Put before a trainer of TRL in a class's bases.

    Args:
        asked: held-out rows that the student answers at each evaluation; their share of right
            answers is logged as ``eval_accuracy``.
        rows: trained on, to name those of a step whose loss is not a number.
        before_save: called with the name of each checkpoint before it is written.
        arguments: of TRL's trainer.
    """

    _total_train_tokens: int
    """Tokens that the student was trained on so far; TRL's trainers have it."""

    def __init__(
        self,
        *,
        asked: Sequence[Question] = (),
        rows: Sequence[EncodedRow] = (),
        before_save: Callable[[str], None] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._asked, self._rows, self._before_save = asked, rows, before_save
        self.answered: list[tuple[str, str]] = []
        """Right and given answer of each held-out row, as texts, at the last evaluation."""
        self.answered_right = 0
        self.answered_at: int | None = None
        """The optimizer step of that evaluation."""
        self._flops_per_token = training_flops_per_token(self.model)
        self._peak_flops = peak_flops(self.args.device)
        self._held_out_nll = 0.0
        self._held_out_tokens = 0
        self._clock: tuple[float, int, int] | None = None
        self._first_step = 0
        self.evaluation_seconds = 0.0
        """What evaluations on held-out rows took."""

    def create_model_card(self, *unused: Any, **unused_too: Any) -> None:
        """TRL writes a card with each checkpoint; ours is written once, at the end."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._before_save is not None and self.is_world_process_zero():
            self._before_save(f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; the first one starts the clock, where a resumed run continues."""
        if self._clock is None:
            self._first_step = self.state.global_step
            self._clock = (time.perf_counter(), self._total_train_tokens, self._first_step)
        return super().training_step(*arguments, **options)

    def _maybe_log_save_evaluate(self, tr_loss: Any, *arguments: Any, **options: Any) -> None:
        """As the parent's, unless the loss since the last line of the log is not a number."""
        control = self.control
        due = control.should_log or control.should_save or control.should_evaluate
        if due and not math.isfinite(loss := float(tr_loss)):
            raise DivergedError(self._diverged(loss))
        super()._maybe_log_save_evaluate(tr_loss, *arguments, **options)

    def _diverged(self, loss: float) -> str:
        step, every = self.state.global_step, int(self.args.logging_steps)
        since = f" (or one of the {every - 1} steps before it)" if every > 1 else ""
        rows = ", ".join(self._rows_of_step()) or "not known (packed rows)"
        return (
            f"the loss of step {step}{since} is {loss}; its rows: {rows}. Training has stopped, "
            "and checkpoints of earlier steps are kept. Check these rows, lower "
            "--learning_rate, or train in another --dtype; to continue from a checkpoint with "
            "changed settings, name it with --resume_from_checkpoint"
        )

    def _rows_of_step(self) -> list[str]:
        """Where the rows of the last step are in their file."""
        raise NotImplementedError

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's, with the loss averaged over tokens instead of batches."""
        started = time.perf_counter()
        self._held_out_nll, self._held_out_tokens = 0.0, 0
        output = super().evaluation_loop(*arguments, **options)
        prefix = options.get("metric_key_prefix", "eval")
        sums = torch.tensor(
            [self._held_out_nll, float(self._held_out_tokens)],
            dtype=torch.float32,
            device=self.args.device,
        )
        nll, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        if tokens and f"{prefix}_loss" in output.metrics:
            output.metrics[f"{prefix}_loss"] = nll / tokens
            if not math.isfinite(nll):
                raise DivergedError(
                    f"the held-out loss at step {self.state.global_step} is {nll}; train in "
                    "another --dtype, e.g. float32, or check the rows of --eval_file"
                )
        if self._asked and prefix == "eval":
            output.metrics["eval_accuracy"] = self.answer_held_out()
        # What an evaluation took is not training's speed.
        took = time.perf_counter() - started
        self.evaluation_seconds += took
        if self._clock is not None:
            since, tokens_then, step_then = self._clock
            self._clock = (since + took, tokens_then, step_then)
        return output

    def _drop_repeated_rows(
        self, inputs: dict[str, Any], positions: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Take the labels off rows that only fill up the processes' last batches."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader:
            return positions
        size = self.args.per_device_eval_batch_size
        # Rows left for the last round; accelerate deals them out by process (1.15).
        left = state.remainder if state.remainder > 0 else size * self.accelerator.num_processes
        own = min(max(left - self.accelerator.process_index * size, 0), size)
        labels = inputs["labels"]
        if "position_ids" not in inputs:
            labels[own:] = IGNORED
            return positions
        starts = [*(inputs["position_ids"][0] == 0).nonzero().flatten().tolist(), labels.shape[1]]
        end = starts[min(own, len(starts) - 1)]
        labels[:, end:] = IGNORED
        return None if positions is None else positions[positions + 1 < end]

    def answer_held_out(self) -> float:
        """Let the student as it is answer the rows asked; returns the share of right answers."""
        # Every process answers all of them: the metric decides about checkpoints everywhere.
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        config = model.config.get_text_config()
        has_balance_loss = getattr(self, "aux_loss_enabled", False)
        if has_balance_loss:
            # The balance loss of Qwen3's mixtures cannot be had while a cache is used.
            config.output_router_logits = False
        with self.compute_loss_context_manager():
            answers = answer_greedily(model, self._asked, pad_id=self.processing_class.pad_token_id)
        if has_balance_loss:
            config.output_router_logits = True
        decode = self.processing_class.decode
        self.answered_at = self.state.global_step
        self.answered = [
            (
                decode(question.answer, skip_special_tokens=True),
                decode(until_end(answer, question.answer[-1]), skip_special_tokens=True),
            )
            for question, answer in zip(self._asked, answers, strict=True)
        ]
        self.answered_right = count_right(self._asked, answers)
        return self.answered_right / len(self._asked)

    def missing_figures(self) -> dict[str, str]:
        """What the log cannot hold on this machine, and why."""
        if self._peak_flops is not None:
            return {}
        device = self.args.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {"model_flops_utilisation_missing": f"the peak FLOP/s of {kind} is not known"}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed and memory to each line of training."""
        if "loss" in logs:
            logs |= self._speed() | {"peak_memory_gib": peak_memory_gib(self.args.device)}
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        """Rates since the last line of the log."""
        now, tokens, step = time.perf_counter(), self._total_train_tokens, self.state.global_step
        before, tokens_before, step_before = self._clock or (now, tokens, step)
        self._clock = (now, tokens, step)
        seconds = now - before
        if seconds <= 0 or step <= step_before:
            return {}
        rows = (step - step_before) * self._rows_per_step()
        rate = (tokens - tokens_before) / seconds
        speed = {"tokens_per_second": round(rate, 1), "rows_per_second": round(rows / seconds, 2)}
        if self._peak_flops is not None:
            peak = self._peak_flops * self.accelerator.num_processes
            speed["model_flops_utilisation"] = rate * self._flops_per_token / peak
        return speed

    @property
    def rows_seen(self) -> int:
        """Rows of the steps since this run began or was resumed, each step counted as full."""
        return int(self.state.global_step - self._first_step) * self._rows_per_step()

    def _rows_per_step(self) -> int:
        return int(
            self.args.per_device_train_batch_size
            * self.args.gradient_accumulation_steps
            * self.accelerator.num_processes
        )


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return round(float(torch.cuda.max_memory_allocated(device)) / 2**30, 3)
    # Linux counts in KiB (getrusage(2)).
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
