"""One request to the teacher and what came of it, and the row of the journal that holds it."""

from dataclasses import dataclass
from typing import Any

from prompt_distillation.engines.base import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request and what came of it: either ``completion`` or ``error`` is set.

    Attributes:
        vote: which of an input's votes, from 0.
        attempt: which of the vote's attempts, from 0.
        temperature: it was drawn with.
        max_tokens: it was allowed.
        refused: whether the engine would not take the request, and never will.
    """

    vote: int
    attempt: int
    temperature: float
    max_tokens: int
    completion: Completion | None = None
    error: str | None = None
    refused: bool = False


def row_of(key: bytes, attempt: Attempt) -> dict[str, Any]:
    """A record as the journal holds it; the key first, for those who read it with their eyes."""
    row: dict[str, Any] = {
        "key": key.hex(),
        "vote": attempt.vote,
        "attempt": attempt.attempt,
        "temperature": attempt.temperature,
        "max_tokens": attempt.max_tokens,
    }
    completion = attempt.completion
    if completion is None:
        row["error"] = attempt.error
        if attempt.refused:
            row["refused"] = True
        return row
    row["text"] = completion.text
    row["finish_reason"] = completion.finish_reason
    row["prompt_tokens"] = completion.prompt_tokens
    row["completion_tokens"] = completion.completion_tokens
    row["seconds"] = completion.seconds
    if completion.cached_tokens is not None:
        row["cached_tokens"] = completion.cached_tokens
    if completion.first_token_seconds is not None:
        row["first_token_seconds"] = completion.first_token_seconds
    if completion.reasoning is not None:
        row["reasoning"] = completion.reasoning
    return row


def attempt_of(row: dict[str, Any]) -> Attempt:
    """The record a journal's row holds."""
    completion = None
    if "error" not in row:
        completion = Completion(
            text=row["text"],
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            seconds=row["seconds"],
            cached_tokens=row.get("cached_tokens"),
            first_token_seconds=row.get("first_token_seconds"),
            reasoning=row.get("reasoning"),
        )
    return Attempt(
        vote=row["vote"],
        attempt=row["attempt"],
        temperature=row["temperature"],
        max_tokens=row["max_tokens"],
        completion=completion,
        error=row.get("error"),
        refused=row.get("refused", False),
    )
