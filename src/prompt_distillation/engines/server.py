"""The server engine: any OpenAI-compatible endpoint, however busy or flaky it is.

Answers are streamed, so that a server that accepts a request and then says nothing is noticed long
before the whole answer's time is up. Nothing that a server sends is trusted: `ServerAnswer` puts a
completion together from what is there and names what is missing.
"""

import asyncio
import json
import logging
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI

from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    Request,
    RequestFailedError,
    RequestRefusedError,
)
from prompt_distillation.engines.concurrency import AdaptiveLimiter, Slot
from prompt_distillation.engines.server_answers import (
    ServerAnswer,
    TryAgainError,
    in_one_line,
    retry_after_seconds,
    words_of,
)
from prompt_distillation.errors import EngineError

logger = logging.getLogger(__name__)

DEFAULT_CONCURRENCY = 64
KEY_VARIABLE = "OPENAI_API_KEY"
# Of a request that asks for the list of models, before and between the real ones.
PROBE_TIMEOUT_SECONDS = 30.0
# The longest silence before the first token, and between tokens, as shares of
# --request_timeout_seconds: 150 s (a busy server's queue) and 60 s of its 600 s.
FIRST_TOKEN_SHARE, NEXT_TOKEN_SHARE = 0.25, 0.1
# After so long without a byte, what is being waited for is said on screen.
REPORT_SILENCE_SECONDS = 30.0

# Marks of common chat templates. Which of them the server's model knows cannot be asked.
MARKS = re.compile(r"<[|｜][^<>|｜]{1,40}[|｜]>|</?think>|<(?:start|end)_of_turn>|\[/?INST\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """How a request is tried again.

    Attributes:
        attempts: how often it is sent at most.
        first_seconds: the wait before the second attempt lies between 0 and this; it doubles.
        longest_seconds: where the doubling ends, and what of a ``Retry-After`` is honoured.
        hopeless_seconds: how long requests may fail before one has ever succeeded; never less than
            a single request may take.
    """

    attempts: int = 8
    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    hopeless_seconds: float = 60.0


class ServerEngine:
    """A model behind an OpenAI-compatible endpoint."""

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
        self._streams = True
        self._said: set[str] = set()
        self._marked_requests = 0
        self._has_succeeded = False
        self._waiting = 0
        # Of the event loop's clock, in seconds.
        self._first_sent = self._last_heard = 0.0
        self._reporter: asyncio.Task[None] | None = None

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation, trying again what may go better the next time."""
        started = time.perf_counter()
        if self._reporter is None:
            self._first_sent = self._last_heard = asyncio.get_running_loop().time()
            self._reporter = asyncio.create_task(self._report_silence())
        self._look_for_marks(request)
        failure: TryAgainError | None = None
        for number in range(self._backoff.attempts):
            if failure is not None:
                await asyncio.sleep(self._wait_seconds(number, failure))
            try:
                return await self._attempt(request, started)
            except TryAgainError as error:
                failure = error
                self._judge_failure(error)
            except RequestFailedError as error:
                self._say_once(str(error), key=type(error).__name__)
                raise
        assert failure is not None
        if failure.kind == "connection":
            # Either the server closes connections for this request, or it is gone.
            await self.probe()
        raise RequestFailedError(
            f"gave up after {self._backoff.attempts} attempts: {failure}"
        ) from failure

    async def aclose(self) -> None:
        """Close the connections."""
        if self._reporter is not None:
            self._reporter.cancel()
            self._reporter = None
        if self._marked_requests > 1:
            logger.warning(
                "%d requests held text that looks like a chat template's own marks",
                self._marked_requests,
            )
            self._marked_requests = 0
        await self._client.close()

    async def probe(self) -> None:
        """See that the server is there, takes the key and serves the model.

        Raises:
            EngineError: it does not.
        """
        try:
            answer = await self._client.models.with_raw_response.list(timeout=PROBE_TIMEOUT_SECONDS)
            if _is_web_page(answer.headers):
                raise self._no_api(str(answer.url))
            served = [str(model["id"]) for model in json.loads(answer.text)["data"]]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise _key_refused(self._client, error) from error
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {self._client.base_url}: {_cause(error)}; start it (e.g. "
                "`vllm serve MODEL`) or correct --server_url"
            ) from error
        except (openai.OpenAIError, ValueError, TypeError, KeyError) as error:
            # Not every endpoint lists its models, and a busy one may not do so now.
            logger.debug("%s does not list its models: %s", self._client.base_url, error)
            return
        if served and self._model not in served:
            raise EngineError(
                f"the server at {self._client.base_url} does not serve {self._model!r}; it serves "
                f"{', '.join(served[:5])}{' ...' if len(served) > 5 else ''}"
            )

    def _wait_seconds(self, number: int, error: TryAgainError) -> float:
        """Exponential backoff with full jitter, and never sooner than the server asked for."""
        longest = self._backoff.longest_seconds
        highest = min(longest, self._backoff.first_seconds * 2 ** (number - 1))
        return min(error.retry_after_seconds, longest) + random.uniform(0.0, highest)

    async def _attempt(self, request: Request, started: float) -> Completion:
        """Send a request once (twice where the server turns out not to stream)."""
        streams = self._streams
        async with self._limiter.slot() as slot:
            try:
                try:
                    answer = await self._receive(request, started, streams=streams)
                except openai.APIStatusError as error:
                    if not (streams and _refuses_streaming(error)):
                        raise
                    self._streams = False
                    self._say_once(f"it does not stream ({_message(error)}); asking without")
                    answer = await self._receive(request, started, streams=False)
                completion = answer.completion(time.perf_counter() - started)
            except TryAgainError as error:
                if error.kind == "silence":
                    self._limiter.overloaded(slot)
                raise
            except openai.APIConnectionError as error:
                raise TryAgainError(
                    f"connection lost: {_cause(error)}", kind="connection"
                ) from error
            except _transport_errors() as error:  # while the answer was read
                raise TryAgainError(f"connection lost: {error!r}", kind="connection") from error
            except openai.APIStatusError as error:
                raise self._judge(error, slot) from error
        self._limiter.succeeded()
        self._has_succeeded = True
        for note in answer.notes:
            self._say_once(note)
        return completion

    async def _receive(self, request: Request, started: float, *, streams: bool) -> ServerAnswer:
        """Send a request and read what comes, until the end or a silence that is too long."""
        body = self._body(request)
        first_seconds = next_seconds = self._timeout_seconds
        if streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            first_seconds *= FIRST_TOKEN_SHARE
            next_seconds *= NEXT_TOKEN_SHARE
        top = request.sampling.top_logprobs
        answer = ServerAnswer(max_tokens=request.sampling.max_tokens, top_logprobs=top)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            async with (
                asyncio.timeout(self._timeout_seconds) as whole,
                asyncio.timeout(first_seconds) as silence,
                self._client.chat.completions.with_streaming_response.create(**body) as response,
            ):
                self._check_address(response.method, str(response.url), response.headers)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    self._streams = self._streams and not streams
                    answer.add_whole(await response.text())
                    return answer
                async for line in response.iter_lines():
                    if answer.add_line(line):
                        answer.first_token_seconds = (
                            answer.first_token_seconds or time.perf_counter() - started
                        )
                        if request.on_text is not None:
                            request.on_text(answer.text_so_far)
                    self._last_heard = now = loop.time()
                    has_begun = answer.first_token_seconds is not None
                    silence.reschedule(now + (next_seconds if has_begun else first_seconds))
        except (TimeoutError, openai.APITimeoutError) as error:
            waited = f"no answer within {self._timeout_seconds:g} s"
            if not whole.expired() and silence.expired():
                waited = (
                    f"no first token within {first_seconds:g} s"
                    if answer.first_token_seconds is None
                    else f"nothing for {next_seconds:g} s in the middle of the answer"
                )
            raise TryAgainError(
                f"{waited} (--request_timeout_seconds {self._timeout_seconds:g})", kind="silence"
            ) from error
        finally:
            self._waiting -= 1
            self._last_heard = loop.time()
        return answer

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
        if sampling.json_schema is not None:
            form = {"name": "answer", "schema": json.loads(sampling.json_schema)}
            extra["response_format"] = {"type": "json_schema", "json_schema": form}
        asked = {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        return (asked if sampling.top_logprobs else {}) | {
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
        self._check_address(error.response.request.method, str(error.response.url), {})
        if status in (401, 403):
            return _key_refused(self._client, error)
        if status == 404:
            return EngineError(
                f"{self._client.base_url} has no such model or path (HTTP 404: {reason}); "
                "--model_name must be the name the server serves, and --server_url usually ends in "
                "/v1"
            )
        if error.code == "insufficient_quota":
            return EngineError(f"the account's quota is used up: {reason}")
        if status == 429 or status >= 500:
            asked = retry_after_seconds(error.response.headers)
            hold = min(asked, self._backoff.longest_seconds)
            self._limiter.overloaded(slot, hold_seconds=hold)
            return TryAgainError(
                f"HTTP {status}: {reason}", kind=f"HTTP {status}", retry_after_seconds=asked
            )
        if status in (408, 409):
            return TryAgainError(f"HTTP {status}: {reason}", kind=f"HTTP {status}")
        return RequestRefusedError(f"the server refused the request: HTTP {status}: {reason}")

    def _judge_failure(self, failure: TryAgainError) -> None:
        """Show the first failure of its kind; give up where nothing but failures ever came."""
        self._say_once(f"{failure}; trying again", key=failure.kind)
        waited = asyncio.get_running_loop().time() - self._first_sent
        patience = max(self._timeout_seconds, self._backoff.hopeless_seconds)
        if not self._has_succeeded and waited > patience:
            raise EngineError(
                f"no request to {self._client.base_url} has succeeded in {waited:.0f} s (at most "
                f"{patience:g} s, --request_timeout_seconds); the last one failed: {failure}"
            ) from failure

    def _check_address(self, method: str, url: str, headers: Mapping[str, str]) -> None:
        """See that what answered is the API."""
        if method != "POST":
            raise EngineError(
                f"{self._client.base_url} redirects to {url}, where a request cannot follow; "
                "pass that address, without /chat/completions, as --server_url"
            )
        if _is_web_page(headers):
            if self._has_succeeded:
                raise TryAgainError("a web page came instead of an answer", kind="web page")
            raise self._no_api(url)

    def _no_api(self, url: str) -> EngineError:
        return EngineError(
            f"{url} answers with a web page, not as an OpenAI-compatible API; --server_url is "
            f"{self._client.base_url} and usually ends in /v1"
        )

    def _say_once(self, message: str, *, key: str | None = None) -> None:
        """Log a message about the server, unless one with that key was logged before."""
        if (key or message) not in self._said:
            self._said.add(key or message)
            logger.warning("the server at %s: %s", self._client.base_url, message)

    def _look_for_marks(self, request: Request) -> None:
        """Count and tell of inputs that the server's template may mistake for its own marks.

        Here they cannot be tokenised as data, as by the engines that tokenise themselves.
        """
        own = (turn["content"] for turn in request.messages if turn["role"] != "system")
        found = next((mark for text in own for mark in MARKS.findall(text)), None)
        if found is not None:
            self._marked_requests += 1
            self._say_once(
                f"an input holds {found!r}, which the server may read as a mark of its chat "
                "template and not as text; the engines vllm and transformers cannot be misled so",
                key="marks",
            )

    async def _report_silence(self) -> None:
        """Say what is being waited for while a server sends nothing at all."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REPORT_SILENCE_SECONDS)
            silent = loop.time() - self._last_heard
            if self._waiting and silent >= REPORT_SILENCE_SECONDS:
                limit = self._timeout_seconds * (FIRST_TOKEN_SHARE if self._streams else 1)
                logger.warning(
                    "the server at %s has sent nothing for %.0f s; %d request(s) wait, each for at "
                    "most %.0f s until its first token (--request_timeout_seconds %g)",
                    self._client.base_url, silent, self._waiting, limit, self._timeout_seconds,
                )  # fmt: skip


def _is_web_page(headers: Mapping[str, str]) -> bool:
    return "text/html" in headers.get("content-type", "")


def _refuses_streaming(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 405, 422, 501) and "stream" in _message(error).lower()


def _transport_errors() -> tuple[type[Exception], ...]:
    """What is raised while an answer is read: openai 2 has httpx below it, openai 3 httpx2."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(module.HTTPError for module in loaded)


def _key_refused(client: AsyncOpenAI, error: Exception) -> EngineError:
    state = "holds a key it does not accept" if os.environ.get(KEY_VARIABLE) else "is not set"
    return EngineError(
        f"the server at {client.base_url} refuses access ({type(error).__name__}): the environment "
        f"variable {KEY_VARIABLE} {state}"
    )


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, in short; never the request's headers, which hold the key."""
    return words_of(error.body or error.response.reason_phrase)


def _cause(error: openai.APIConnectionError) -> str:
    return in_one_line(str(error.__cause__ or error)) or type(error.__cause__ or error).__name__


def _check_url(url: str) -> None:
    """Raise `EngineError` for a text that is no address of a server."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or above 65535
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url:
        raise EngineError(
            f"--server_url is {url!r}; expected the base URL of an OpenAI-compatible endpoint, "
            "e.g. http://localhost:8000/v1"
        )


async def connect_to_server(options: EngineOptions) -> ServerEngine:
    """Connect to ``options.server_url`` and see that it serves the model.

    Raises:
        EngineError: nothing answers there, the key is refused, or the model is not served.
    """
    # Without a URL the client would take OpenAI's.
    assert options.server_url, "EngineConfig asks for it"
    _check_url(options.server_url)
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
