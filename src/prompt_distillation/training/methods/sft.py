"""TRL's `SFTTrainer` with another loss.

Where answers are short and rows lie end to end, only labelled positions are projected to the
vocabulary, by the same code on CPUs and GPUs. TRL 1.16 (``add_fused_lm_head``) projects every
position where there is no Triton. Long answers are left to its fused kernel on GPUs, which never
holds all scores.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.methods.monitoring import Monitored

POSITIONS = "label_positions"
"""Key of a batch: where the scores of labelled tokens stand, counted before the batch is on a GPU,
which would have to be waited for."""

MOST_SCORES = 2**28
"""Scores (labelled tokens x vocabulary) that are held at once on a GPU, in float32: 1 GiB."""


class AnswerTrainer(Monitored, SFTTrainer):  # type: ignore[misc]
    """Fine-tunes on rows of ``input_ids`` and ``labels``.

    Args:
        arguments: of `Monitored` and of `SFTTrainer`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._batches: list[dict[str, Any]] = []
        self._counts: list[torch.Tensor] = []
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

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; the batches are kept until the step's loss is known."""
        batches, count = super().get_batch_samples(*arguments, **options)
        self._batches = batches
        return batches, count

    def _rows_of_step(self) -> list[str]:
        return rows_of_batches(self._batches, self._rows)

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's, with what `_loss_of_labelled` has counted."""
        self._read_counts()
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
