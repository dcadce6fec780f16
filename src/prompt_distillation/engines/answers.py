"""Reading what an OpenAI-compatible server answered, trusting none of it."""

import json
from collections.abc import Mapping
from typing import Any, cast

from prompt_distillation.engines.base import Completion, FinishReason, RequestFailedError

# vLLM writes `reasoning`; SGLang, DeepSeek and older vLLM write `reasoning_content`.
REASONING_FIELDS = ("reasoning_content", "reasoning")


class BadAnswerError(Exception):
    """The answer is no chat completion; asking again may bring one."""


def read_completion(body: str, *, seconds: float) -> Completion:
    """Read a chat completion.

    Args:
        body: the answer's JSON text.
        seconds: how long the request took.

    Raises:
        BadAnswerError: it is not JSON, or lacks what every completion has.
        RequestFailedError: the server ended the completion for a reason that will not go away.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:  # the latter: thousands of open brackets
        raise BadAnswerError(f"not JSON: {body[:80]!r}") from error
    choices = _get(answer, "choices", list)
    if not choices:
        raise BadAnswerError("no choices in the answer")
    message = _get(choices[0], "message", dict)
    finish_reason = _get(choices[0], "finish_reason", str)
    if finish_reason not in ("stop", "length"):
        raise RequestFailedError(f"the server ended the completion with {finish_reason!r}")
    usage = _get(answer, "usage", dict)
    details = _optional(usage, "prompt_tokens_details", dict) or {}
    reasoning = next(filter(None, (_optional(message, n, str) for n in REASONING_FIELDS)), None)
    return Completion(
        # Null where a reasoning was cut before the answer began.
        text=_optional(message, "content", str) or "",
        finish_reason=cast(FinishReason, finish_reason),
        prompt_tokens=_get(usage, "prompt_tokens", int),
        completion_tokens=_get(usage, "completion_tokens", int),
        cached_tokens=_optional(details, "cached_tokens", int),
        seconds=seconds,
        reasoning=reasoning,
    )


def _get(fields: object, name: str, kind: type) -> Any:
    """A field that must be there, of a kind it must have."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, kind):
        raise BadAnswerError(f"the answer's {name!r} is {value!r}, not a {kind.__name__}")
    return value


def _optional(fields: Mapping[str, object], name: str, kind: type) -> Any:
    """A field that may be missing or null, but is of its kind where it is there."""
    return None if fields.get(name) is None else _get(fields, name, kind)
