"""Chat rows to token ids and labels: loss on answers only, their end-of-turn tokens included.

Context and answer are encoded by what the engines encode with (`engines.prompts`), so that the
student sees in production what it sees in training, and contents cannot become turns. TRL's own
preparation tokenises both together and also trains on what a template writes after the end of the
turn (Qwen's line feed), which no engine ever samples.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prompt_distillation.data.chat_rows import ChatRow
from prompt_distillation.engines.base import RequestFailedError
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import InputError, ModelError
from prompt_distillation.tasks import ChatMessage

logger = logging.getLogger(__name__)

IGNORED = -100
"""Label of a token without loss, torch's ``ignore_index``."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one conversation, and their labels.

    Attributes:
        input_ids: context, answer, end of turn.
        labels: aligned with ``input_ids``; `IGNORED` wherever no answer is trained.
        where: file and line, for messages.
        context: the turns before the (last) answer.
    """

    input_ids: list[int]
    labels: list[int]
    where: str = ""
    context: tuple[ChatMessage, ...] = ()

    @property
    def trained(self) -> list[int]:
        """Token ids of the answers, ends of turns included."""
        return [label for label in self.labels if label != IGNORED]


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """What is trained on, and what was left out."""

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

    def dataset(self) -> Any:
        """As the trainer takes them: a `datasets.Dataset` of ``input_ids`` and ``labels``."""
        from datasets import Dataset

        return Dataset.from_dict(
            {
                "input_ids": [row.input_ids for row in self.rows],
                "labels": [row.labels for row in self.rows],
            }
        )


def encode_rows(
    rows: Sequence[ChatRow],
    tokenizer: Any,
    *,
    stop_ids: frozenset[int],
    max_length: int,
    assistant_turns: Literal["last", "all"] = "last",
) -> EncodedRows:
    """Encode every row; those longer than ``max_length`` tokens are left out, counted and logged.

    A cut row would lose the end of its answer, and with it the only tokens that teach.

    Args:
        rows: conversations, each ending in an answer.
        tokenizer: with a chat template.
        stop_ids: ids that end a turn, see `end_of_turn_ids`.
        max_length: longest row, in tokens.
        assistant_turns: which turns of the assistant have loss. Where the template renders an
            earlier turn as it would have been asked for, one row has them all; where it does not
            (hybrid templates put empty reasoning into the last turn only), each is a row.

    Raises:
        ModelError: the model has no chat template, or one that renders the context differently
            once an answer follows.
        InputError: no row fits.
    """
    encoder = PromptEncoder(tokenizer, model=tokenizer.name_or_path)
    encoded: list[EncodedRow] = []
    for row in rows:
        turns = [*row.earlier, row] if assistant_turns == "all" else [row]
        encoded += _in_one_row([_encode(turn, encoder, stop_ids) for turn in turns])
    fitting = [row for row in encoded if len(row.input_ids) <= max_length]
    if not fitting:
        raise InputError(
            f"every row is longer than --max_length {max_length} tokens; raise it or shorten them"
        )
    left_out = len(encoded) - len(fitting)
    if left_out:
        logger.warning(
            "%d of %d rows are longer than --max_length %d tokens and are left out",
            left_out, len(encoded), max_length,
        )  # fmt: skip
    return EncodedRows(
        rows=fitting, left_out={"longer_than_max_length": left_out} if left_out else {}
    )


def _encode(row: ChatRow, encoder: PromptEncoder, stop_ids: frozenset[int]) -> EncodedRow:
    try:
        context, answer = encoder.encode_example(row.context, row.answer)
    except ModelError as error:
        raise ModelError(f"{row.where}: {error}") from error
    except RequestFailedError as error:
        raise InputError(f"{row.where}: {error}") from error
    default = encoder.tokenizer.eos_token_id
    trained = until_end_of_turn(answer, stop_ids, default=default)
    labels = [IGNORED] * len(context) + trained
    return EncodedRow(context + trained, labels, row.where, row.context)


def _in_one_row(turns: list[EncodedRow]) -> list[EncodedRow]:
    """One row with the labels of all ``turns``, if each begins the last one, token by token."""
    whole = turns[-1]
    if any(whole.input_ids[: len(turn.input_ids)] != turn.input_ids for turn in turns):
        return turns
    labels = list(whole.labels)
    for turn in turns[:-1]:
        for at, label in enumerate(turn.labels):
            if label != IGNORED:
                labels[at] = label
    return [EncodedRow(whole.input_ids, labels, whole.where, whole.context)]


def set_template_defaults(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Give the chat template arguments that hold wherever the tokenizer is used from now on.

    They are written into the template itself, which is saved with the student: every engine and
    every server then renders what the student was trained on, without arguments. A hybrid
    template's own default is to think; a student answers without, so it gets
    ``enable_thinking=false`` unless ``arguments`` say otherwise.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return
    defaults = dict(arguments)
    if "enable_thinking" not in defaults and _answers_after_thinking(tokenizer):
        defaults["enable_thinking"] = False
        logger.info("the student's chat template can think; it is trained with thinking off")
    lines = (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {value!r} %}}{{%- endif %}}"
        for name, value in defaults.items()
    )
    tokenizer.chat_template = "".join(lines) + template


def _answers_after_thinking(tokenizer: Any) -> bool:
    """Whether the template puts (empty) reasoning into an answer, and can leave it out."""
    context: list[ChatMessage] = [{"role": "user", "content": "a"}]
    answer: ChatMessage = {"role": "assistant", "content": "b"}

    def begins_with_answer(**arguments: bool) -> bool:
        encoder = PromptEncoder(tokenizer, model="", chat_template_kwargs=arguments)
        written = encoder.decode(encoder.encode_example(context, answer)[1])
        return written.lstrip().startswith("b")

    try:
        return not begins_with_answer() and begins_with_answer(enable_thinking=False)
    except (ModelError, RequestFailedError):
        return False  # said where a row is encoded


def until_end_of_turn(ids: list[int], stop_ids: frozenset[int], *, default: int) -> list[int]:
    """The answer up to its last end-of-turn token; a template without one gets ``default``."""
    for last in range(len(ids) - 1, -1, -1):
        if ids[last] in stop_ids:
            return ids[: last + 1]
    return [*ids, default]
