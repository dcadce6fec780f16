"""On-policy distillation: the student answers without the prompt, the teacher scores its tokens.

TRL's `DistillationTrainer` samples the answers, batches and logs. Replaced is what the teacher
reads (`teacher_contexts`): TRL's teacher reads exactly what the student reads. With it come

- three kinds of teacher: the student's own base with the adapter switched off, another model in
  process, or a vLLM server that lists the most likely tokens of each position;
- a limit on what a single token counts, and no loss on special tokens, whose use is a matter of the
  model's format;
- the held-out loss of `sft`, on the teacher's answers, so that runs of all methods compare.

The teacher is frozen, and what all its contexts begin with, the task's prompt, is computed once.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.trainer.utils import RepeatSampler

from prompt_distillation.engines.prompts import shared_prefix_length
from prompt_distillation.training.divergence import (
    NOTHING,
    divergence,
    student_with_rest,
    with_rest,
)
from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.held_out_answers import questions
from prompt_distillation.training.loading import is_sharded
from prompt_distillation.training.methods.monitoring import Monitored
from prompt_distillation.training.teacher_contexts import TeacherContext, twins_with_space
from prompt_distillation.training.teacher_server import Listed, TeacherServer

with warnings.catch_warnings():
    # TRL imports vLLM along with it, if there is one, and finds its version too new (1.16).
    warnings.simplefilter("ignore")
    from trl import DistillationTrainer

MOST_SCORES = 2**28
"""Scores (tokens x vocabulary) that are held at once, in float32: 1 GiB."""


class OnPolicyTrainer(Monitored, DistillationTrainer):  # type: ignore[misc]
    """Moves the student towards the teacher's view of the student's own answers.

    Args:
        contexts: place of a row in its file -> what the teacher reads before the answer; rows
            without one are not trained on.
        rows: encoded for the student.
        held_out: evaluated on.
        teacher_model: another model in process; None: the student's base with the adapter switched
            off, unless there is a server.
        server: that scores instead.
        token_clip: what a token counts at most, in nats; None: no limit.
        arguments: of `Monitored` and of TRL's `DistillationTrainer`.
    """

    def __init__(
        self,
        *,
        contexts: Mapping[str, TeacherContext],
        rows: Sequence[EncodedRow],
        held_out: Sequence[EncodedRow] = (),
        teacher_model: Any = None,
        server: TeacherServer | None = None,
        token_clip: float | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(
            rows=rows,
            teacher_model=teacher_model,
            train_dataset=_questions(rows, contexts),
            eval_dataset=_answered(held_out) if held_out else None,
            **arguments,
        )
        self._server, self._token_clip = server, token_clip
        self._step_rows: list[str] = []
        self._peak_flops = None
        tokenizer = self.processing_class
        self._pad_id = int(tokenizer.pad_token_id)
        self._ends = frozenset(self.eos_token_ids)
        self._special = frozenset(tokenizer.all_special_ids) - self._ends
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        self._twins = torch.tensor(twins_with_space(tokenizer, int(head.weight.shape[0])))
        teacher = self.teacher_model if teacher_model is not None else self.model
        self._prefix = SharedPrefix.of(
            [context.ids for context in contexts.values()],
            config=self.accelerator.unwrap_model(teacher).config.get_text_config(),
        )

    # What is trained on, and in which order

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """As TRL's, with an order that depends on the epoch only: a resumed run goes on in it."""
        rows = self.train_dataset if dataset is None else dataset
        return _EpochSampler(
            data_source=rows,
            mini_repeat_count=1,
            batch_size=self._rows_per_step(),
            repeat_count=self.args.gradient_accumulation_steps,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}  # rows are encoded

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The student's answers, and what the teacher reads before each."""
        self._step_rows = [row["where"] for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        ids, mask = output["completion_ids"].cpu(), output["completion_mask"].cpu()
        answers = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
        counted = _pad([self._counted(row, a) for row, a in zip(inputs, answers, strict=True)], 0)
        spaced = torch.tensor([row["spaced"] for row in inputs])
        contexts = [list(row["teacher_ids"]) for row in inputs]
        read = [
            self._as_the_teacher_writes(answer, spaced=row["spaced"])
            for row, answer in zip(inputs, answers, strict=True)
        ]
        output |= {"loss_mask": counted, "spaced": spaced}
        if self._server is not None:
            listed = self._server.score(contexts, read)
            output |= self._listed_tensors(listed, spaced.tolist())
        else:
            behind = [context[len(self._prefix.ids) :] for context in contexts]
            output["teacher_ids"] = _pad(behind, self._pad_id, left=True)
            output["teacher_mask"] = _pad([[1] * len(part) for part in behind], 0, left=True)
            output["teacher_answer"] = _pad(read, self._pad_id)
        device = self.accelerator.device
        output = {key: value.to(device) for key, value in output.items() if value is not None}
        output["num_items_in_batch"] = self.accelerator.gather(output["loss_mask"].sum()).sum()
        seen = sum(len(row["prompt"]) + len(a) for row, a in zip(inputs, answers, strict=True))
        self._total_train_tokens += seen * self.accelerator.num_processes
        return output

    def _counted(self, row: Mapping[str, Any], answer: Sequence[int]) -> list[int]:
        """1 for each token of an answer that carries loss."""
        return [
            int(token not in self._special and (row["ends"] or token not in self._ends))
            for token in answer
        ]

    def _as_the_teacher_writes(self, answer: list[int], *, spaced: bool) -> list[int]:
        if not spaced or not answer or answer[0] in self._ends:
            return answer
        return [int(self._twins[answer[0]]), *answer[1:]]

    def _listed_tensors(
        self, listed: Sequence[Sequence[Listed]], spaced: Sequence[bool]
    ) -> dict[str, torch.Tensor]:
        """Ids and log-probabilities of shape (rows, tokens, listed), for the student's tokens."""
        longest = max(len(answer) for answer in listed)
        most = max((len(view.tokens) for answer in listed for view in answer), default=1)
        ids = torch.full((len(listed), longest, most), -1)
        logprobs = torch.full((len(listed), longest, most), NOTHING)
        for row, answer in enumerate(listed):
            for place, view in enumerate(answer):
                tokens = torch.tensor(view.tokens)
                tokens = self._twins[tokens] if spaced[row] and place == 0 else tokens
                ids[row, place, : len(tokens)] = tokens
                logprobs[row, place, : len(tokens)] = torch.tensor(view.logprobs)
        return {"listed_ids": ids, "listed_logprobs": logprobs}

    def _rows_of_step(self) -> list[str]:
        return self._step_rows

    def missing_figures(self) -> dict[str, str]:
        """Why the log has no share of the device's peak."""
        why = "a step also samples answers and has them scored"
        return {"model_flops_utilisation_missing": why}

    # The loss

    def _compute_loss(
        self, student: Any, inputs: dict[str, Any], num_items: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean divergence of the counted tokens, the sum of the student's entropies, and a count.

        Args:
            student: unwrapped.
            inputs: a slice of what `_generate_and_score_completions` has made.
            num_items: counted tokens of the whole step.
        """
        answer = inputs["completion_ids"]
        hidden = _hidden(
            student,
            torch.cat([inputs["prompt_ids"], answer], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            answer.shape[1],
        )
        counted = inputs["loss_mask"].bool()
        head = Head.of(student)
        if self._server is not None:
            per_token, entropy = self._from_lists(hidden[counted], head, inputs, counted)
        else:
            per_token, entropy = self._from_model(student, hidden, head, inputs, counted)
        if self._token_clip is not None:
            # Scaled, not cut off: a token beyond the limit still teaches, in its direction.
            per_token = per_token * (self._token_clip / per_token.detach()).clamp(0.0, 1.0)
        total = per_token.sum()
        count = counted.sum()
        loss = total / (count.clamp(min=1) if num_items is None else num_items)
        return loss, entropy.sum().detach(), count

    def _from_model(
        self,
        student: Any,
        hidden: torch.Tensor,
        head: "Head",
        inputs: dict[str, Any],
        counted: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """By a model in process: over the whole vocabulary, which is never held for all tokens."""
        with self._teacher(student) as teacher, torch.no_grad():
            of_teacher = self._prefix.hidden(
                teacher,
                torch.cat([inputs["teacher_ids"], inputs["teacher_answer"]], dim=1),
                torch.cat([inputs["teacher_mask"], inputs["completion_mask"]], dim=1),
                inputs["teacher_answer"].shape[1],
            )
            teacher_head = Head.of(teacher)
        moved = torch.zeros_like(counted)
        moved[:, 0] = inputs["spaced"]
        plain, moved = counted & ~moved, counted & moved
        parts = [
            ChunkedDivergenceFunction.apply(
                hidden[plain], head.weight, head.bias,
                of_teacher[plain], teacher_head.weight, teacher_head.bias,
                self.beta, self.temperature,
                head.scale, head.softcap, teacher_head.scale, teacher_head.softcap,
            )
        ]  # fmt: skip
        if moved.any():
            # One token of a row at most: few enough to hold their scores.
            ours = torch.log_softmax(head.logits(hidden[moved]) / self.temperature, -1)
            theirs = teacher_head.logits(of_teacher[moved]) / self.temperature
            theirs = torch.log_softmax(theirs, -1)[:, self._twins.to(theirs.device)]
            entropy = -(ours.exp() * ours).sum(-1)
            parts.append((divergence(ours, theirs, self.beta), entropy))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _from_lists(
        self,
        hidden: torch.Tensor,
        head: "Head",
        inputs: dict[str, Any],
        counted: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """By a server's lists: over the listed tokens, and all others as one outcome."""
        ids, logprobs = inputs["listed_ids"][counted], inputs["listed_logprobs"][counted]

        def compare(
            hidden: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            logits = head.logits(hidden)
            whole = torch.log_softmax(logits.detach(), -1)
            entropy = -(whole.exp() * whole).sum(-1)
            ours = student_with_rest(logits, ids)
            return divergence(ours, with_rest(logprobs), self.beta), entropy

        rows = max(1, MOST_SCORES // int(head.weight.shape[0]))
        parts = [
            checkpoint(compare, *chunk, use_reentrant=False)
            for chunk in zip(hidden.split(rows), ids.split(rows), logprobs.split(rows), strict=True)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @contextmanager
    def _teacher(self, student: Any) -> Any:
        """The teacher, without dropout; the student is as it was afterwards."""
        if self.teacher_model is not None:
            self.teacher_model.eval()
            yield self.accelerator.unwrap_model(self.teacher_model)
            return
        was_training = student.training
        student.eval()
        try:
            with student.disable_adapter():
                yield student
        finally:
            student.train(was_training)

    # Held-out rows

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Held-out rows with the teacher's answers, as `sft` evaluates them; none is sampled."""
        from torch.utils.data import DataLoader

        loader = DataLoader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=self._collate,
        )
        return self.accelerator.prepare(loader)

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = _pad([row["input_ids"] for row in rows], self._pad_id)
        mask = _pad([[1] * len(row["input_ids"]) for row in rows], 0)
        labels = _pad([row["labels"] for row in rows], IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """Negative log-likelihood of the teacher's answers, in nats per token."""
        self._drop_repeated_rows(inputs, None)
        labels = inputs["labels"][:, 1:]
        labelled = int((labels != IGNORED).sum())
        with torch.no_grad(), self.compute_loss_context_manager():
            # Through the wrapper: FSDP and DeepSpeed gather the weights there.
            logits = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
            ).logits[:, :-1]
        nll = cross_entropy(logits[labels != IGNORED].float(), labels[labels != IGNORED])
        loss = nll if labelled else torch.zeros((), device=labels.device)
        self._held_out_nll += float(loss) * labelled
        self._held_out_tokens += labelled
        return loss, None, None


class _EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, which accelerate tells the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Order the rows for an epoch; TRL's order depends on the epochs that were run through."""
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + 1_000_003 * epoch)


@dataclass(frozen=True, slots=True)
class Head:
    """The last layer of a model: hidden states to scores.

    Attributes:
        weight: of shape (vocabulary, hidden).
        bias: of shape (vocabulary,).
        scale: what scores are multiplied by.
        softcap: between which bounds they are squeezed (Gemma).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """Read it off a causal language model of transformers, adapted or not."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        return cls(
            weight=layer.weight,
            bias=layer.bias,
            scale=_scale(config),
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores in float32, computed in the type of the weights."""
        scores = linear(hidden.to(self.weight.dtype), self.weight, self.bias).float() * self.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


def _scale(config: Any) -> float:
    """What a family multiplies its scores by (as TRL 1.16 reads it)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / float(divisor)


class SharedPrefix:
    """What all of a frozen teacher's contexts begin with; its keys and values are computed once.

    Args:
        ids: the tokens; none: every context is computed whole.
    """

    SHORTEST = 64
    """Tokens below which it is not worth it."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self._cache: Any = None

    @classmethod
    def of(cls, contexts: Sequence[list[int]], *, config: Any) -> "SharedPrefix":
        """Of contexts, leaving at least a token of each, where the model's layers allow it."""
        # Recurrent layers would read the padding that stands between the prefix and a short row,
        # and sharded weights (FSDP, ZeRO-3) are gathered by the wrapper only.
        layers = set(getattr(config, "layer_types", None) or ["full_attention"])
        length = min(shared_prefix_length(contexts), min(map(len, contexts)) - 1)
        if length < cls.SHORTEST or layers != {"full_attention"} or is_sharded():
            return cls([])
        return cls(contexts[0][:length])

    def hidden(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, last: int) -> torch.Tensor:
        """See `_hidden`; ``ids`` and ``mask`` are what follows the prefix."""
        if not self.ids:
            return _hidden(model, ids, mask, last)
        if self._cache is None:
            prefix = torch.tensor([self.ids], device=ids.device)
            self._cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(ids.shape[0])
        seen = mask.new_ones(mask.shape[0], len(self.ids))
        return _hidden(model, ids, torch.cat([seen, mask], dim=1), last, cache=cache)


def _hidden(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, last: int, *, cache: Any = None
) -> torch.Tensor:
    """States that score the last tokens of each row, before the last layer.

    Args:
        model: a causal language model, adapted or not.
        ids: of shape (rows, tokens); padding may be on either side.
        mask: 1 for tokens; those of the cache come first.
        last: how many tokens to score.
        cache: keys and values of what stands before.

    Returns:
        Shape (rows, last, hidden).
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    # Models count positions themselves from the left, padding included (GPT-2's are absolute).
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    states = base.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return states[:, -last - 1 : -1]


def _pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> torch.Tensor:
    return pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=value,
        padding_side="left" if left else "right",
    )


def _questions(rows: Sequence[EncodedRow], contexts: Mapping[str, TeacherContext]) -> Any:
    from datasets import Dataset

    asked = [row for row in rows if row.where in contexts]
    return Dataset.from_list(
        [
            {
                "prompt": question.context,
                "where": row.where,
                "teacher_ids": contexts[row.where].ids,
                "spaced": contexts[row.where].spaced,
                "ends": contexts[row.where].ends,
            }
            for row, question in zip(asked, questions(asked, limit=len(asked)), strict=True)
        ]
    )


def _answered(rows: Sequence[EncodedRow]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
