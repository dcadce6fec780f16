"""TRL's `SFTTrainer`, with three things it leaves to be wished for.

- On a CPU it projects every token to the vocabulary and then masks the result (TRL 1.16,
  ``add_fused_lm_head``: only with Triton are unlabelled positions skipped). With answers of two
  tokens that is most of the work; here only labelled positions are projected.
- Its held-out loss is the mean over batches of their means; here it is the mean over tokens, so it
  does not depend on the batch size.
- Its log has no speed; here every line has tokens and rows per second and the memory.
"""

import inspect
import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from prompt_distillation.training.answering import Question, accuracy, answer_greedily, until_end
from prompt_distillation.training.encode import IGNORED
from prompt_distillation.training.flops import peak_flops, training_flops_per_token


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """Fine-tunes on rows of ``input_ids`` and ``labels``, laid end to end without padding.

    Args:
        asked: held-out rows that the student answers at each look; their share of right answers
            is logged as ``eval_accuracy``.
        arguments: of `SFTTrainer`.
    """

    def __init__(self, *, asked: Sequence[Question] = (), **arguments: Any) -> None:
        super().__init__(**arguments)
        self._asked = asked
        self.answered: list[tuple[str, str]] = []
        """Right and given answer of each held-out row, as texts, at the last look."""
        self.answered_at: int | None = None
        """The optimizer step of that look."""
        self._flops_per_token = training_flops_per_token(self.model)
        self._peak_flops = peak_flops(self.args.device)
        self._held_out_nll = 0.0
        self._held_out_tokens = 0
        self._clock: tuple[float, int, int] | None = None
        self._first_step = 0
        self.looking_seconds = 0.0
        """What the looks at the held-out rows took."""
        base = self.accelerator.unwrap_model(self.model)
        base = base.get_base_model() if isinstance(base, PeftModel) else base
        self._projects_only_labelled = (
            self.args.device.type == "cpu"
            and self.padding_free
            and not self.aux_loss_enabled
            and self.args.loss_type == "nll"
            and self.label_smoother is None
            and "logits_to_keep" in inspect.signature(base.forward).parameters
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the labelled tokens, in nats per token."""
        held_out = not self.model.training and not return_outputs
        # Only there: to read a number off a GPU is to wait for all that it has to do.
        labelled = int((inputs["labels"][:, 1:] != IGNORED).sum()) if held_out else 0
        if self._projects_only_labelled and not return_outputs:
            loss = self._loss_of_labelled(model, inputs, num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if held_out:
            self._held_out_nll += float(loss.detach()) * labelled
            self._held_out_tokens += labelled
        return loss

    def _loss_of_labelled(self, model: Any, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        labels = inputs.pop("labels")[0]
        # The logits at one position score the label of the next.
        positions = (labels[1:] != IGNORED).nonzero().flatten()
        targets = labels[positions + 1]
        outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
        logits = outputs.logits[0].float()  # (labelled, vocabulary)
        summed = cross_entropy(logits, targets, reduction="sum")
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            tokens = torch.tensor(inputs["input_ids"].numel(), device=labels.device)
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(tokens).sum())
        correct = (logits.argmax(-1) == targets).float().mean()
        self._metrics[mode]["mean_token_accuracy"].append(
            float(self.accelerator.gather_for_metrics(correct).mean())
        )
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        if num_items is None:
            return summed / targets.numel()
        if self.args.average_tokens_across_devices:
            # The number counts every device's tokens, and their gradients are averaged.
            summed = summed * self.accelerator.num_processes
        return summed / num_items

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; the first one starts the clock, at the step a resumed run goes on at."""
        if self._clock is None:
            self._first_step = self.state.global_step
            self._clock = (time.perf_counter(), self._total_train_tokens, self._first_step)
        return super().training_step(*arguments, **options)

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
        if self._asked and prefix == "eval":
            output.metrics["eval_accuracy"] = self.answer_held_out()
        # What evaluation took is not training's speed.
        took = time.perf_counter() - started
        self.looking_seconds += took
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
        return accuracy(self._asked, answers)

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
            logs |= self._speed() | memory_gib(self.args.device)
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


def memory_gib(device: torch.device) -> dict[str, float]:
    """Peak memory so far in GiB: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return {"peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}
    # Linux counts in KiB (getrusage(2)).
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"peak_memory_gib": round(peak, 3)}
