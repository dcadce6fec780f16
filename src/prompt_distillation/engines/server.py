"""The server engine: any OpenAI-compatible endpoint, however busy or flaky it is."""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import openai
from openai import AsyncOpenAI
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    FinishReason,
    Request,
    RequestFailedError,
    RequestRefusedError,
)
from prompt_distillation.engines.concurrency import AdaptiveLimiter, Slot
from prompt_distillation.errors import EngineError

logger = logging.getLogger(__name__)

DEFAULT_CONCURRENCY = 64
KEY_VARIABLE = "OPENAI_API_KEY"
# Of a request that asks for the list of models, before and between the real ones.
PROBE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """How a request is tried again.

    Attributes:
        attempts: how often it is sent at most.
        first_seconds: the wait before the second attempt lies between 0 and this; it doubles.
        longest_seconds: where the doubling ends, and what of a ``Retry-After`` is honoured.
    """

    attempts: int = 8
    first_seconds: float = 1.0
    longest_seconds: float = 60.0


class _TryAgainError(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class ServerEngine:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        client: of the ``openai`` package, its own retries off.
        options: what was asked for.
        backoff: how requests are tried again.
    """

    name = "server"

    def __init__(
        self, client: AsyncOpenAI, options: EngineOptions, backoff: Backoff | None = None
    ) -> None:
        self.concurrency = options.max_concurrency or DEFAULT_CONCURRENCY
        self._client = client
        self._model = options.model
        self._template_kwargs = options.chat_template_kwargs
        self._timeout_seconds = options.request_timeout_seconds
        self._backoff = backoff or Backoff()
        self._limiter = AdaptiveLimiter(self.concurrency)

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation, trying again what may go better the next time."""
        started = time.perf_counter()
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._backoff.attempts),
            wait=self._wait_seconds,
            retry=retry_if_exception_type(_TryAgainError),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._attempt(request, started)
        except _TryAgainError as error:
            if isinstance(error.__cause__, openai.APIConnectionError):
                # Either this request cuts its connections, or nobody is there any more.
                await self.probe()
            raise RequestFailedError(
                f"gave up after {self._backoff.attempts} attempts: {error}"
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def probe(self) -> None:
        """See that the server is there, takes the key and serves the model.

        Raises:
            EngineError: it does not.
        """
        try:
            models = await self._client.models.list(timeout=PROBE_TIMEOUT_SECONDS)
            served = [model.id for model in models.data or ()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise _key_refused(self._client, error) from error
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {self._client.base_url}: {_cause(error)}; start it (e.g. "
                "`vllm serve MODEL`) or correct --server_url"
            ) from error
        except (openai.OpenAIError, ValueError, AttributeError) as error:
            # Not every endpoint lists its models, and a busy one may not do so now.
            logger.debug("%s does not list its models: %s", self._client.base_url, error)
            return
        if served and self._model not in served:
            raise EngineError(
                f"the server at {self._client.base_url} does not serve {self._model!r}; it serves "
                f"{', '.join(served[:5])}{' …' if len(served) > 5 else ''}"
            )

    def _wait_seconds(self, state: RetryCallState) -> float:
        """Exponential backoff with full jitter, and never sooner than the server asked for."""
        jitter = wait_random_exponential(
            multiplier=self._backoff.first_seconds, max=self._backoff.longest_seconds
        )
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, _TryAgainError) else 0.0
        return min(asked, self._backoff.longest_seconds) + jitter(state)

    async def _attempt(self, request: Request, started: float) -> Completion:
        async with self._limiter.slot() as slot:
            try:
                # The client's own timeout starts again with every byte.
                async with asyncio.timeout(self._timeout_seconds):
                    response = await self._client.chat.completions.with_raw_response.create(
                        **self._body(request)
                    )
                completion = read_completion(response.text, seconds=time.perf_counter() - started)
            except (TimeoutError, openai.APITimeoutError) as error:
                self._limiter.overloaded(slot)
                raise _TryAgainError(
                    f"no answer within {self._timeout_seconds:g} s (--request_timeout_seconds)"
                ) from error
            except openai.APIConnectionError as error:
                raise _TryAgainError(f"connection lost: {_cause(error)}") from error
            except BadAnswerError as error:
                raise _TryAgainError(str(error)) from error
            except openai.APIStatusError as error:
                raise self._judge(error, slot) from error
        self._limiter.succeeded()
        return completion

    def _body(self, request: Request) -> dict[str, Any]:
        """The request as `chat.completions.create` takes it; vLLM's own fields in extra_body."""
        sampling = request.sampling
        messages: list[Any] = list(request.messages)
        extra: dict[str, Any] = {}
        if request.prefill:
            messages.append({"role": "assistant", "content": request.prefill})
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        if self._template_kwargs:
            extra["chat_template_kwargs"] = dict(self._template_kwargs)
        if sampling.max_thinking_tokens is not None:
            extra["thinking_token_budget"] = sampling.max_thinking_tokens
        if sampling.choices is not None:
            extra["structured_outputs"] = {"choice": list(sampling.choices)}
        return {
            "model": self._model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "extra_body": extra,
        }

    def _judge(self, error: openai.APIStatusError, slot: Slot) -> Exception:
        """What a status means: try again, this request has failed, or all will."""
        status, reason = error.status_code, _message(error)
        if status in (401, 403):
            return _key_refused(self._client, error)
        if status == 404:
            return EngineError(
                f"{self._client.base_url} has no such model or path ({reason}); --model_name must "
                "be the name the server serves, and --server_url usually ends in /v1"
            )
        if error.code == "insufficient_quota":
            return EngineError(f"the account's quota is used up: {reason}")
        if status == 429 or status >= 500:
            asked = retry_after_seconds(error.response.headers)
            hold = min(asked, self._backoff.longest_seconds)
            self._limiter.overloaded(slot, hold_seconds=hold)
            return _TryAgainError(f"HTTP {status}: {reason}", retry_after_seconds=asked)
        if status in (408, 409):
            return _TryAgainError(f"HTTP {status}: {reason}")
        return RequestRefusedError(f"the server refused the request: HTTP {status}: {reason}")


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


def _key_refused(client: AsyncOpenAI, error: Exception) -> EngineError:
    state = "holds a key it does not take" if os.environ.get(KEY_VARIABLE) else "is not set"
    return EngineError(
        f"the server at {client.base_url} refuses access ({type(error).__name__}): the environment "
        f"variable {KEY_VARIABLE} {state}"
    )


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, in short; never the request's headers, which hold the key."""
    body = error.body
    words = body.get("message") if isinstance(body, dict) else body
    return " ".join(str(words or error.response.reason_phrase).split())[:200]


def _cause(error: openai.APIConnectionError) -> str:
    return str(error.__cause__ or error) or type(error.__cause__ or error).__name__


async def connect_to_server(options: EngineOptions) -> ServerEngine:
    """Connect to ``options.server_url`` and see that it serves the model.

    Raises:
        EngineError: no URL, nobody answers there, the key is refused, or the model is not served.
    """
    if not options.server_url:
        raise EngineError(
            "engine server needs --server_url, the base URL of an OpenAI-compatible endpoint, e.g. "
            "http://localhost:8000/v1"
        )
    if options.adapter is not None:
        raise EngineError(
            "engine server cannot load an adapter; serve it (`vllm serve BASE --enable-lora "
            "--lora-modules NAME=PATH`) and pass its NAME as the model"
        )
    client = AsyncOpenAI(
        base_url=options.server_url,
        # Servers of one's own take any key, but the client insists on one.
        api_key=os.environ.get(KEY_VARIABLE) or "none",
        timeout=options.request_timeout_seconds,
        max_retries=0,
    )
    engine = ServerEngine(client, options)
    try:
        await engine.probe()
    except BaseException:
        await engine.aclose()
        raise
    return engine


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
