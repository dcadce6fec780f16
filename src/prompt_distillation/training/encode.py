"""Chat rows to token ids and labels: loss on the answer only, its end-of-turn token included.

The context is rendered with the generation prompt, exactly as an engine will render it, and
tokenised apart from the answer: what the student sees in training is what it sees in production.
TRL's own preparation tokenises both together and also trains on what a template writes after the
end of the turn (Qwen's line feed), which no engine ever samples.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompt_distillation.data.chat_rows import ChatRow
from prompt_distillation.errors import InputError, ModelError

logger = logging.getLogger(__name__)

IGNORED = -100
"""Label of a token without loss, torch's ``ignore_index``."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one conversation, and their labels.

    Attributes:
        input_ids: context, answer, end of turn.
        labels: aligned with ``input_ids``; `IGNORED` over the context.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """What is trained on, and what was left out.

    Attributes:
        rows: in the file's order.
        left_out: reason -> count.
        tokens: of all rows together.
        trained_tokens: those with a label.
    """

    rows: list[EncodedRow]
    left_out: dict[str, int]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(label != IGNORED for row in self.rows for label in row.labels)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row.input_ids) for row in self.rows]


def end_of_turn_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Ids at which an engine stops: the tokenizer's, and those of the generation config."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def encode_rows(
    rows: Sequence[ChatRow], tokenizer: Any, *, stop_ids: frozenset[int], max_length: int
) -> EncodedRows:
    """Encode every row; those longer than ``max_length`` tokens are left out, counted and logged.

    A cut row would lose the end of its answer, and with it the only tokens that teach.

    Raises:
        ModelError: the model has no chat template, or one that renders the context differently
            once an answer follows.
        InputError: no row fits.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path} has no chat template, so a conversation cannot be turned "
            "into tokens; choose an instruct model, or pass --chat_template_path FILE.jinja"
        )
    contexts, answers = _render(rows, tokenizer)
    context_ids = tokenizer(contexts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    encoded: list[EncodedRow] = []
    left_out: Counter[str] = Counter()
    for row, context, answer in zip(rows, context_ids, answer_ids, strict=True):
        trained = _until_end_of_turn(answer, stop_ids, default=tokenizer.eos_token_id)
        if len(context) + len(trained) > max_length:
            left_out["longer_than_max_length"] += 1
            logger.debug("%s: left out, over %d tokens", row.where, max_length)
            continue
        encoded.append(EncodedRow(context + trained, [IGNORED] * len(context) + trained))
    if not encoded:
        raise InputError(
            f"every row is longer than --max_length {max_length} tokens; raise it or shorten them"
        )
    if left_out:
        logger.warning(
            "%d of %d rows are longer than --max_length %d tokens and are left out",
            left_out["longer_than_max_length"], len(rows), max_length,
        )  # fmt: skip
    return EncodedRows(rows=encoded, left_out=dict(left_out))


def _render(rows: Sequence[ChatRow], tokenizer: Any) -> tuple[list[str], list[str]]:
    """Texts of the contexts, with the generation prompt, and of what the template puts after."""
    contexts: list[str] = []
    answers: list[str] = []
    for row in rows:
        turns = [dict(turn) for turn in row.context]
        context = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*turns, dict(row.answer)], tokenize=False)
        if not whole.startswith(context):
            raise ModelError(
                f"{row.where}: the chat template of {tokenizer.name_or_path} renders the context "
                "differently once an answer follows, so training and serving would not agree; "
                "pass --chat_template_path with a template that does not"
            )
        contexts.append(context)
        answers.append(whole[len(context) :])
    return contexts, answers


def _until_end_of_turn(ids: list[int], stop_ids: frozenset[int], *, default: int) -> list[int]:
    """The answer up to its last end-of-turn token; a template without one gets ``default``."""
    for last in range(len(ids) - 1, -1, -1):
        if ids[last] in stop_ids:
            return ids[: last + 1]
    return [*ids, default]
