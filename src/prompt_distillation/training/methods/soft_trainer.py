"""`AnswerTrainer` with the teacher's probabilities in the loss.

The loss of a token is ``weight`` times the forward KL divergence from the teacher, plus the rest
times the cross-entropy of the answer's token. The divergence is taken over the stored candidates
and one bucket for all other tokens: candidates alone would tell the student nothing of how much
they leave over. The student's probability of the bucket is added up from the scores of the other
tokens, not taken as 1 minus that of the candidates, whose logarithm is lost in rounding where they
hold nearly all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from prompt_distillation.training.encode import IGNORED
from prompt_distillation.training.methods.sft import POSITIONS, AnswerTrainer
from prompt_distillation.training.methods.soft_targets import NO_TOKEN, SoftTarget

ROW = "row"
"""Column of the rows trained on: which row it is."""

IDS, PROBABILITIES, REST = "soft_ids", "soft_probabilities", "soft_rest"
"""Keys of a batch: candidates of its labelled tokens in order, as `SoftTarget` has them."""


class SoftTrainer(AnswerTrainer):
    """Fine-tunes on the teacher's probabilities; held-out rows are evaluated as `AnswerTrainer`'s.

    Args:
        targets: of each row, by its number in the column `ROW`.
        weight: share of the divergence in the loss, in [0, 1].
        temperature: of the candidates; see `divergence`.
        arguments: of `AnswerTrainer`.
    """

    _signature_columns: list[str]

    def __init__(
        self,
        *,
        targets: Sequence[SoftTarget],
        weight: float,
        temperature: float,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._weight, self._temperature = weight, temperature
        self._parts: list[torch.Tensor] = []
        self.data_collator = _WithTargets(self.data_collator, targets)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, ROW]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss of the labelled tokens, in nats per token; see the module."""
        target = {name: inputs.pop(name, None) for name in (IDS, PROBABILITIES, REST)}
        if target[IDS] is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        tokens = self._tokens_of(inputs)
        logits, labels, extra = self._scores(model, inputs)
        self._count(logits, labels, tokens=tokens)
        known = target[IDS][:, 0] != NO_TOKEN
        hard = cross_entropy(logits, labels, reduction="none")
        soft = divergence(
            logits, target[IDS], target[PROBABILITIES], target[REST], temperature=self._temperature
        )
        mixed = self._weight * soft + (1 - self._weight) * hard
        counted = torch.ones_like(hard)
        sums = torch.stack([hard.sum(), soft.sum(), (counted * known).sum(), counted.sum()])
        self._parts.append(self.accelerator.reduce(sums.detach(), reduction="sum"))
        summed = torch.where(known, mixed, hard).sum()
        loss = self._mean(summed, labels.numel(), num_items_in_batch)
        return loss if extra is None else loss + extra / self._passes(num_items_in_batch)

    def _tokens_of(self, inputs: Mapping[str, Any]) -> int:
        mask = inputs.get("attention_mask")
        return int(mask.sum()) if mask is not None else int(inputs["input_ids"].numel())

    def _scores(
        self, model: Any, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Scores of the labelled tokens, in float32, the tokens, and a balance loss of experts."""
        positions, labels = inputs.pop(POSITIONS, None), inputs.pop("labels")
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        if positions is not None:
            outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
            scores, targets = outputs.logits[0], labels[0, positions + 1]
        else:
            outputs = model(**inputs, use_cache=False)
            labelled = labels[:, 1:] != IGNORED
            scores, targets = outputs.logits[:, :-1][labelled], labels[:, 1:][labelled]
        extra = self.router_aux_loss_coef * outputs.aux_loss if self.aux_loss_enabled else None
        return scores.float(), targets, extra

    def _passes(self, num_items: Any) -> int:
        return 1 if num_items is None else int(self.current_gradient_accumulation_steps)

    def _read_counts(self) -> None:
        """As the parent's, with both parts of the loss."""
        super()._read_counts()
        metrics = self._metrics["train"]
        for hard, soft, known, labelled in map(torch.Tensor.tolist, self._parts):
            metrics["cross_entropy"].append(hard / max(1.0, labelled))
            metrics["divergence"].append(soft / max(1.0, known))
        self._parts.clear()


@dataclass
class _WithTargets:
    """A collator that adds what is known of the labelled tokens of its rows."""

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    targets: Sequence[SoftTarget]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows)
        if ROW in rows[0]:  # held-out rows have none
            found = [self.targets[row[ROW]] for row in rows]
            ids = [torch.from_numpy(token).long() for target in found for token in target.ids]
            shares = [torch.from_numpy(token) for target in found for token in target.probabilities]
            batch[IDS] = pad_sequence(ids, batch_first=True, padding_value=NO_TOKEN)
            batch[PROBABILITIES] = pad_sequence(shares, batch_first=True)
            batch[REST] = torch.cat([torch.from_numpy(target.rest) for target in found])
        return batch


def divergence(
    logits: torch.Tensor,
    ids: torch.Tensor,
    probabilities: torch.Tensor,
    rest: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Forward KL divergence of the student from the teacher, over candidates and one bucket.

    The temperature divides the logarithms of the candidates, the teacher's and the student's, among
    themselves: how much they hold together, and so the bucket, stays what it is.

    Args:
        logits: the student's scores, tokens x vocabulary, float.
        ids: candidates, tokens x width; `NO_TOKEN` where there are fewer.
        probabilities: the teacher's, as ``ids``.
        rest: the teacher's of the bucket; where it is 0, so is its part of the divergence.
        temperature: above 0.

    Returns:
        Nats, a number a token; 0 for a token without candidates.
    """
    present = (ids != NO_TOKEN) & (probabilities > 0)
    listed = ids != NO_TOKEN
    # An id that is listed anyway fills up the line: it is taken out of the bucket twice.
    index = torch.where(listed, ids, ids[:, :1].clamp(min=0))
    whole = logits.logsumexp(dim=-1, keepdim=True)
    student = (logits.gather(1, index) - whole).masked_fill(~listed, -torch.inf)
    teacher = probabilities
    if temperature != 1:
        student = _tempered(student, listed, temperature)
        logarithms = torch.where(present, probabilities, 1).log().masked_fill(~present, -torch.inf)
        teacher = _tempered(logarithms, present, temperature).exp()
    terms = teacher * (torch.where(present, teacher, 1).log() - student.masked_fill(~present, 0))
    in_bucket = logits.scatter(1, index, -torch.inf).logsumexp(dim=-1) - whole[:, 0]
    left = rest > 0
    bucket = rest * (torch.where(left, rest, 1).log() - in_bucket.masked_fill(~left, 0))
    return terms.masked_fill(~present, 0).sum(dim=-1) + bucket


def _tempered(logarithms: torch.Tensor, present: torch.Tensor, temperature: float) -> torch.Tensor:
    """Temper probabilities among themselves: their sum stays the same."""
    # A line without any would have no logarithm of its sum.
    safe = torch.where(present.any(dim=-1, keepdim=True), logarithms, 0)
    mass = safe.logsumexp(dim=-1, keepdim=True)
    return mass + (safe / temperature).log_softmax(dim=-1)
