"""Reading what an OpenAI-compatible server answered, trusting none of it."""

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.data.text import encodable, safe_for_terminal
from prompt_distillation.engines.base import Completion, FinishReason, RequestFailedError
from prompt_distillation.tasks import END_OF_THINKING

# vLLM writes `reasoning`; SGLang, DeepSeek and older vLLM write `reasoning_content`.
REASONING_FIELDS = ("reasoning_content", "reasoning")

# Other servers' words for the two ends of an answer.
FINISH_REASONS = {
    "eos": "stop", "eos_token": "stop", "end_turn": "stop", "max_tokens": "length",
}  # fmt: skip

MOST_TOKENS = 2**53
"""Above it a count is no number that JSON readers agree on, and no model's."""


class TryAgainError(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, *, kind: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds


class ServerAnswer:
    """A chat completion as it arrives, whole or in pieces; nothing of it is trusted."""

    def __init__(self, *, max_tokens: int, top_logprobs: int = 0) -> None:
        self._top_logprobs = top_logprobs
        self._scores: list[tuple[str, list[tuple[str, float]]]] = []
        self.first_token_seconds: float | None = None
        self.notes: list[str] = []
        self._max_tokens = max_tokens
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._finish_reason: str | None = None
        self._usage: dict[str, object] | None = None
        self._has_choice = False
        self._has_ended = False

    @property
    def text_so_far(self) -> str:
        """What has arrived, a reasoning that came apart included, as a model would write it."""
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        if reasoning and text:
            reasoning += END_OF_THINKING
        return encodable(reasoning + text)[0]

    def add_whole(self, body: str) -> None:
        """Add the whole answer, a JSON object."""
        self._add(body, "message")
        self._has_ended = True

    def add_line(self, line: str) -> bool:
        """Add a line of a stream of server-sent events; returns whether it brought text."""
        if not line.startswith("data:"):  # a comment that keeps the connection open, or nothing
            return False
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._has_ended = True
            return False
        return self._add(data, "delta")

    def _add(self, body: str, part: str) -> bool:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as error:  # the latter: thousands of open brackets
            raise _bad_answer(f"not JSON: {body[:80]!r}") from error
        if isinstance(fields, dict) and fields.get("error"):
            raise _bad_answer(f"the server reports {words_of(fields['error'])}")
        self._usage = _optional(fields, "usage", dict) or self._usage
        choices = _required(fields, "choices", list)
        if not choices:  # as in the last piece of a stream, which has the usage
            return False
        self._has_choice = True
        message = _required(choices[0], part, dict)
        if self._top_logprobs:
            scores = _optional(choices[0], "logprobs", dict) or {}
            self._scores += map(_score_of, _optional(scores, "content", list) or [])
        reason = choices[0].get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish_reason = FINISH_REASONS.get(reason, reason)
        text = _text_of(message, "content")
        reasoning = next(filter(None, (_text_of(message, name) for name in REASONING_FIELDS)), "")
        self._text.append(text)
        self._reasoning.append(reasoning)
        return bool(text or reasoning)

    def completion(self, seconds: float) -> Completion:
        """What arrived, once it is complete.

        Raises:
            TryAgainError: something is missing that every completion has.
            RequestFailedError: the server ended it for a reason that will not go away.
        """
        if not self._has_choice:
            raise _bad_answer("no choices in the answer")
        usage = self._usage or {}
        prompt_tokens = _count(usage, "prompt_tokens")
        completion_tokens = _count(usage, "completion_tokens")
        if prompt_tokens is None or completion_tokens is None:
            self.notes.append("it does not tell how many tokens it used; they are counted as 0")
        details = _optional(usage, "prompt_tokens_details", dict) or {}
        # Empty where a reasoning was cut before the answer began.
        text, text_changed = encodable("".join(self._text))
        reasoning, reasoning_changed = encodable("".join(self._reasoning))
        return Completion(
            text=text,
            finish_reason=self._finished(completion_tokens or 0),
            prompt_tokens=prompt_tokens or 0,
            completion_tokens=completion_tokens or 0,
            cached_tokens=_count(details, "cached_tokens"),
            seconds=seconds,
            first_token_seconds=self.first_token_seconds,
            reasoning=reasoning or None,
            repaired=text_changed or reasoning_changed,
            logprobs=self._logprobs() if self._top_logprobs else None,
        )

    def _logprobs(self) -> AnswerLogprobs:
        """Log-probabilities of the tokens after the reasoning, which a server names by texts."""
        if not self._scores:
            raise RequestFailedError(
                "the server returns no log-probabilities; leave out --top_logprobs, or use "
                "--engine vllm or transformers"
            )
        start, tail = 0, ""
        for number, (token, _) in enumerate(self._scores, start=1):
            tail = tail[-len(END_OF_THINKING) :] + token
            if END_OF_THINKING in tail:
                start, tail = number, ""
        return AnswerLogprobs.of(self._scores[start:], top=self._top_logprobs)

    def _finished(self, completion_tokens: int) -> FinishReason:
        reason = self._finish_reason
        if reason is None:
            if not self._has_ended:
                raise _bad_answer("the stream ended in the middle of the answer")
            self.notes.append(
                "it does not tell why an answer ended; where it has all of its "
                "tokens, it counts as cut off"
            )
            return "length" if completion_tokens >= self._max_tokens else "stop"
        if reason not in ("stop", "length"):
            raise RequestFailedError(f"the server ended the completion with {reason!r}")
        return cast(FinishReason, reason)


def _bad_answer(reason: str) -> TryAgainError:
    return TryAgainError(in_one_line(reason), kind="answer")


def _required(fields: object, name: str, kind: type) -> Any:
    """A field that must be there, of a kind it must have."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, kind):
        raise _bad_answer(f"the answer's {name!r} is {value!r}, not a {kind.__name__}")
    return value


def _score_of(fields: object) -> tuple[str, list[tuple[str, float]]]:
    """A token and its alternatives."""
    token, _ = encodable(_required(fields, "token", str))
    listed = _optional(fields, "top_logprobs", list) or []
    return token, [_pair_of(fields), *map(_pair_of, listed)]


def _pair_of(fields: object) -> tuple[str, float]:
    value = fields.get("logprob") if isinstance(fields, Mapping) else None
    if not isinstance(value, float | int):
        raise _bad_answer(f"a token's 'logprob' is {value!r}, not a number")
    return encodable(_required(fields, "token", str))[0], float(value)


def _optional(fields: object, name: str, kind: type) -> Any:
    """A field that may be missing or null, but is of its kind where it is there."""
    if not isinstance(fields, Mapping) or fields.get(name) is None:
        return None
    return _required(fields, name, kind)


def _count(usage: Mapping[str, object], name: str) -> int | None:
    """A number of tokens; None where it is missing, or no number that a model could have used."""
    try:
        value = float(str(usage.get(name)))
    except ValueError:
        return None
    return int(value) if value.is_integer() and 0 <= value <= MOST_TOKENS else None


def _text_of(message: Mapping[str, object], name: str) -> str:
    """A field that is a text, nothing, or a list of parts with a text each."""
    value = message.get(name)
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, Mapping)]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(value):
            return "".join(texts)
    if value is None or isinstance(value, str):
        return value or ""
    raise _bad_answer(f"the answer's {name!r} is {value!r}, not a text")


def words_of(body: object) -> str:
    """The message in the body of an error, or the body, in one short line."""
    words = body.get("message") if isinstance(body, dict) else None
    return in_one_line(str(words or body))


def in_one_line(text: str) -> str:
    """A server's own words, as they may be logged, written and shown: in one line, and short."""
    return " ".join(safe_for_terminal(text[:400]).split())[:200]


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """How long a server asks to be left alone (RFC 9110, 10.2.3); 0 if it does not say."""
    value = headers.get("retry-after")
    if value is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
