"""The training file in: chat rows, each checked before any model is loaded.

A row is ``{"messages": [..., {"role": "assistant", "content": ANSWER}]}``. The last message is the
answer; what stands before it is its context. The answer is trained on, and where that is asked for
also the assistant's earlier turns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.text import encodable
from prompt_distillation.errors import InputError
from prompt_distillation.tasks import ChatMessage

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRow:
    """One conversation to learn from, up to an answer.

    Attributes:
        context: the turns the student will see, in order; the last is the user's.
        answer: the turn it learns to write.
        where: file and line, for messages.
    """

    context: tuple[ChatMessage, ...]
    answer: ChatMessage
    where: str

    @property
    def earlier(self) -> "list[ChatRow]":
        """The conversation up to each earlier turn of the assistant that answers the user."""
        return [
            ChatRow(context=self.context[:at], answer=turn, where=self.where)
            for at, turn in enumerate(self.context)
            if at and turn["role"] == "assistant" and turn["content"].strip()
            if self.context[at - 1]["role"] == "user"
        ]


def read_chat_rows(path: Path) -> list[ChatRow]:
    """Read and check every row of a training file, in order.

    Raises:
        InputError: no such file, not UTF-8, not JSON lines, empty, or a row (it is named) that is
            not a conversation ending in an answer.
    """
    rows = [_chat_row(row, where=f"{path}, line {number}") for number, row in read_jsonl(path)]
    if not rows:
        raise InputError(f"{path} holds no rows; label some inputs first with create_data.py")
    return rows


def _chat_row(row: dict[str, Any], *, where: str) -> ChatRow:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f"{where}: a row needs a list 'messages', got the keys {', '.join(row) or 'none'}"
        )
    turns = tuple(
        _turn(message, where=f"{where}, message {i}") for i, message in enumerate(messages)
    )
    *context, answer = turns
    if answer["role"] != "assistant":
        raise InputError(
            f"{where}: the last message is the {answer['role']}'s; it must be the assistant's "
            "answer, which is what is trained"
        )
    if not answer["content"].strip():
        raise InputError(f"{where}: the assistant's answer is empty; there is nothing to learn")
    if not context or context[-1]["role"] != "user":
        raise InputError(f"{where}: the answer must follow a message of the user")
    return ChatRow(context=tuple(context), answer=answer, where=where)


def _turn(message: object, *, where: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise InputError(f"{where}: expected an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(f"{where}: role is {role!r}; allowed are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise InputError(f"{where}: content is a {type(content).__name__}; it must be a text")
    return {"role": role, "content": encodable(content)[0]}
