"""TRL's `SFTTrainer` with another loss, held-out figures that mean something, and a watch on both.

- Where answers are short and rows lie end to end, only labelled positions are projected to the
  vocabulary, by the same code on CPUs and GPUs. TRL 1.16 (``add_fused_lm_head``) projects every
  position where there is no Triton. Long answers are left to its fused kernel on GPUs, which never
  holds all scores.
- The held-out loss is the mean over tokens, not over batches of their means, and rows that several
  processes repeat to fill a last batch count once.
- A loss that is not a finite number stops the run, before the next checkpoint.
- Every line of the log has tokens and rows per second and the memory.
"""

import inspect
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from prompt_distillation.errors import DivergedError
from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.flops import peak_flops, training_flops_per_token
from prompt_distillation.training.held_out_answers import (
    Question,
    answer_greedily,
    count_right,
    until_end,
)

POSITIONS = "label_positions"
"""Key of a batch: where the scores of labelled tokens stand, counted before the batch is on a GPU,
which would have to be waited for."""

MOST_SCORES = 2**28
"""Scores (labelled tokens x vocabulary) that are held at once on a GPU, in float32: 1 GiB."""


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """Fine-tunes on rows of ``input_ids`` and ``labels``.

    Args:
        asked: held-out rows that the student answers at each evaluation; their share of right
            answers is logged as ``eval_accuracy``.
        rows: trained on, to name those of a step whose loss is not a number.
        before_save: called with the name of each checkpoint before it is written.
        arguments: of `SFTTrainer`.
    """

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
        self._batches: list[dict[str, Any]] = []
        self._counts: list[torch.Tensor] = []
        self.evaluation_seconds = 0.0
        """What evaluations on held-out rows took."""
        base = self.accelerator.unwrap_model(self.model)
        base = base.get_base_model() if isinstance(base, PeftModel) else base
        self._vocabulary = int(base.config.get_text_config().vocab_size)
        if (
            self.padding_free
            and not self.aux_loss_enabled
            and self.args.loss_type == "nll"
            and self.label_smoother is None
            and "logits_to_keep" in inspect.signature(base.forward).parameters
        ):
            self.data_collator: Any = _WithPositions(self.data_collator)

    def create_model_card(self, *unused: Any, **unused_too: Any) -> None:
        """TRL writes a card with each checkpoint; ours is written once, at the end."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._before_save is not None and self.is_world_process_zero():
            self._before_save(f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; the batches are kept until the step's loss is known."""
        batches, count = super().get_batch_samples(*arguments, **options)
        self._batches = batches
        return batches, count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the labelled tokens, in nats per token."""
        positions = inputs.pop(POSITIONS, None)
        held_out = not self.model.training and not return_outputs
        labelled = 0
        if held_out:
            positions = self._drop_repeated_rows(inputs, positions)
            # Only there: to read a number off a GPU is to wait for all that it has to do.
            labelled = int((inputs["labels"][:, 1:] != IGNORED).sum())
        # On a CPU the alternative would hold the scores of every token.
        if (
            return_outputs
            or positions is None
            or (positions.is_cuda and positions.numel() * self._vocabulary > MOST_SCORES)
        ):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            loss = self._loss_of_labelled(model, inputs, positions, num_items_in_batch)
        if held_out and labelled:
            self._held_out_nll += float(loss.detach()) * labelled
            self._held_out_tokens += labelled
        return loss

    def _loss_of_labelled(
        self, model: Any, inputs: dict[str, Any], positions: torch.Tensor, num_items: Any
    ) -> torch.Tensor:
        targets = inputs.pop("labels")[0, positions + 1]
        outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
        logits = outputs.logits[0].float()  # (labelled, vocabulary)
        self._count(logits, targets, tokens=inputs["input_ids"].numel())
        summed = cross_entropy(logits, targets, reduction="sum")
        return self._mean(summed, targets.numel(), num_items)

    def _count(self, logits: torch.Tensor, targets: torch.Tensor, *, tokens: int) -> None:
        """Count right, labelled and all tokens of a pass, for the next line of the log."""
        counts = torch.empty(3, dtype=torch.int64, device=targets.device)
        counts[0] = (logits.argmax(-1) == targets).sum()
        counts[1], counts[2] = targets.numel(), tokens
        # Read when a line is logged: a GPU would have to be waited for.
        self._counts.append(self.accelerator.reduce(counts, reduction="sum"))

    def _mean(self, summed: torch.Tensor, labelled: int, num_items: Any) -> torch.Tensor:
        """The mean of a pass over the labelled tokens of its step, or of itself."""
        if num_items is None:
            return summed / max(1, labelled)
        if self.args.average_tokens_across_devices:
            # The number counts every device's tokens, and their gradients are averaged.
            summed = summed * self.accelerator.num_processes
        return summed / num_items

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
        rows = ", ".join(rows_of_batches(self._batches, self._rows)) or "not known (packed rows)"
        return (
            f"the loss of step {step}{since} is {loss}; its rows: {rows}. Training has stopped, "
            "and checkpoints of earlier steps are kept. Check these rows, lower "
            "--learning_rate, or train in another --dtype; to continue from a checkpoint with "
            "changed settings, name it with --resume_from_checkpoint"
        )

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

    def answer_held_out(self) -> float:
        """Let the student as it is answer the rows asked; returns the share of right answers."""
        # Every process answers all of them: the metric decides about checkpoints everywhere.
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        config = model.config.get_text_config()
        if self.aux_loss_enabled:
            # The balance loss of Qwen3's mixtures cannot be had while a cache is used.
            config.output_router_logits = False
        with self.compute_loss_context_manager():
            answers = answer_greedily(model, self._asked, pad_id=self.processing_class.pad_token_id)
        if self.aux_loss_enabled:
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
        self._read_counts()
        if "loss" in logs:
            logs |= self._speed() | {"peak_memory_gib": peak_memory_gib(self.args.device)}
        super().log(logs, start_time)

    def _read_counts(self) -> None:
        """Add up what `_loss_of_labelled` has counted since the last line of the log."""
        mode = "train" if self.model.training else "eval"
        metrics = self._metrics[mode]
        for right, labelled, tokens in map(torch.Tensor.tolist, self._counts):
            metrics["mean_token_accuracy"].append(right / max(1, labelled))
            self._total_train_tokens += tokens if mode == "train" else 0
        if self._counts:
            metrics["num_tokens"] = [self._total_train_tokens]
        self._counts.clear()

    def _speed(self) -> dict[str, float]:
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


@dataclass
class _WithPositions:
    """A collator of rows laid end to end that also says which positions score labelled tokens."""

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch; the scores at one position are those of the next token."""
        batch = self.collate(rows)
        batch[POSITIONS] = (batch["labels"][0, 1:] != IGNORED).nonzero().flatten()
        return batch


def rows_of_batches(batches: Sequence[Mapping[str, Any]], rows: Sequence[EncodedRow]) -> list[str]:
    """Where the rows of batches are in their file, if they are found there."""
    places = {tuple(row.input_ids): row.where for row in rows}
    found = (places.get(tuple(ids)) for batch in batches for ids in _ids_of_rows(batch))
    return [where for where in found if where is not None]


def _ids_of_rows(batch: Mapping[str, Any]) -> Iterator[list[int]]:
    ids = batch["input_ids"].tolist()
    if "position_ids" in batch:
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            yield ids[0][start:end]
        return
    for row, length in zip(ids, batch["attention_mask"].sum(1).tolist(), strict=True):
        yield row[:length]


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return round(float(torch.cuda.max_memory_allocated(device)) / 2**30, 3)
    # Linux counts in KiB (getrusage(2)).
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
