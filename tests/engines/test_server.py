import asyncio
import json
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from engines.asking import ask
from engines.faulty_proxy import (
    FAULTS,
    USAGE,
    chat_completion,
    echo,
    events,
    faulty_proxy,
    piece,
)
from openai import AsyncOpenAI

from prompt_distillation.engines import (
    Completion,
    EngineOptions,
    RequestFailedError,
    open_engine,
    server,
    stream,
)
from prompt_distillation.engines.base import RequestRefusedError
from prompt_distillation.engines.server import Backoff, ServerEngine
from prompt_distillation.engines.server_answers import retry_after_seconds
from prompt_distillation.errors import EngineError

FAST = Backoff(attempts=10, first_seconds=0.02, longest_seconds=0.5)


def engine_at(url: str, *, backoff: Backoff = FAST, key: str = "none", **options) -> ServerEngine:
    settings = EngineOptions(
        model="m", server_url=url, **{"request_timeout_seconds": 2.0, **options}
    )
    client = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=10.0)
    return ServerEngine(client, settings, backoff)


def fixed(status: int, body: bytes):
    async def answer(path: str, _: bytes) -> tuple[int, bytes]:
        if path.endswith("/models"):
            return 404, b"{}"
        return status, body

    return answer


async def complete_one(answer, **options) -> Completion:
    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url, backoff=Backoff(attempts=3, first_seconds=0.01), **options)
        try:
            return await engine.complete(ask("hello"))
        finally:
            await engine.aclose()


@pytest.mark.parametrize("whole", [False, True])
async def test_every_request_ends_once_through_faults(whole: bool) -> None:
    count = 150
    async with faulty_proxy(echo(whole=whole), share=0.3, seed=1) as proxy:
        engine = engine_at(proxy.url, request_timeout_seconds=3.0)
        ended: Counter[int] = Counter()
        failed = []
        async for key, result in stream(engine, ((n, ask(f"text {n}")) for n in range(count))):
            ended[key] += 1
            if isinstance(result, RequestFailedError):
                failed.append(str(result))
            else:
                assert result.text.startswith(f"text {key} #")
        await engine.aclose()
    assert ended == Counter(dict.fromkeys(range(count), 1))
    assert len(failed) < 0.1 * count
    assert all(reason.startswith("gave up after 10 attempts: ") for reason in failed)
    assert all(proxy.seen[fault] for fault in FAULTS)


async def test_a_request_that_always_fails_ends_with_its_reason() -> None:
    for body, reason in [
        (b'{"choices": [', "not JSON"),
        (b'{"choices": []}', "no choices"),
        (b"[]", "'choices' is None"),
        (b'{"choices": [{"finish_reason": "stop"}]}', "'message' is None"),
        (b'"text"', "'choices' is None"),
        (b"[" * 100_000, "not JSON"),
        (chat_completion("en").replace(b'"en"', b'["en"]'), r"'content' is \['en'\]"),
        (chat_completion("en", reasoning=["Latin"]), r"'reasoning' is \['Latin'\]"),
        (chat_completion("en").replace(b'{"prompt', b'"", "x": {"prompt'), "'usage' is ''"),
    ]:
        with pytest.raises(RequestFailedError, match=f"gave up after 3 attempts: .*{reason}"):
            await complete_one(fixed(200, body))


def streamed(*pieces, pause: float = 0.0):
    async def answer(path: str, _: bytes):
        if path.endswith("/models"):
            return 404, b"{}"
        return 200, events(*pieces, pause=pause)

    return answer


async def test_a_stream_is_put_together() -> None:
    result = await complete_one(
        streamed(
            piece("", role="assistant"), piece(None, reasoning="Latin "),
            piece(None, reasoning="script."), piece("e"), piece("n", finish_reason="stop"),
            USAGE, "[DONE]", pause=0.01,
        )
    )  # fmt: skip
    assert (result.text, result.reasoning, result.finish_reason) == ("en", "Latin script.", "stop")
    assert (result.prompt_tokens, result.completion_tokens) == (7, 3)
    assert result.first_token_seconds is not None
    assert 0.01 < result.first_token_seconds < result.seconds


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([piece("e")], "the stream ended in the middle of the answer"),
        ([USAGE, "[DONE]"], "no choices"),
        ([piece("e"), '{"choices": [{"del'], "not JSON"),
        ([piece("e"), {"error": {"message": "out of memory"}}], "the server reports out of memory"),
    ],
)
async def test_a_stream_that_is_not_complete_is_asked_for_again(pieces, reason: str) -> None:
    with pytest.raises(RequestFailedError, match=f"gave up after 3 attempts: .*{reason}"):
        await complete_one(streamed(*pieces))


@pytest.mark.parametrize(
    ("before", "reason"),
    [([], "no first token within 0.5 s"), ([piece("e")], "nothing for 0.2 s in the middle")],
)
async def test_a_server_that_falls_silent_holds_a_request_only_so_long(before, reason) -> None:
    async def silent(path: str, _: bytes):
        async def stall():
            async for event in events(*before):
                yield event
            await asyncio.sleep(60)

        return 200, stall()

    with pytest.raises(RequestFailedError, match=f"gave up after 3 attempts: {reason}"):
        await complete_one(silent, request_timeout_seconds=2.0)


async def test_signs_of_life_and_slow_tokens_are_waited_for() -> None:
    async def slow(path: str, _: bytes):
        async def answer():
            for _ in range(4):
                yield b": still in the queue\n\n"
                await asyncio.sleep(0.3)
            async for event in events(*[piece("e")] * 8, pause=0.1):
                yield event
            async for event in events(piece("", finish_reason="stop"), "[DONE]"):
                yield event

        return 200, answer()

    result = await complete_one(slow, request_timeout_seconds=3.0)
    assert result.text == "e" * 8


async def test_a_server_that_does_not_stream_is_asked_without() -> None:
    asked = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        asked.append("stream" in json.loads(body))
        if asked[-1]:
            return 400, b'{"error": {"message": "Streaming is not supported"}}'
        return 200, chat_completion("fine")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url)
        assert (await engine.complete(ask("hello"))).text == "fine"
        assert (await engine.complete(ask("hello"))).text == "fine"
        await engine.aclose()
    assert asked == [True, False, False]


@pytest.mark.parametrize(
    ("pieces", "finish_reason", "note"),
    [
        ([piece("en", finish_reason="stop"), "[DONE]"], "stop", "how many tokens"),
        ([piece("en"), USAGE, "[DONE]"], "stop", "why an answer ended"),
        ([piece("en"), USAGE | {"usage": {"prompt_tokens": 7, "completion_tokens": 12}}, "[DONE]"],
         "length", "why an answer ended"),
    ],
)  # fmt: skip
async def test_what_a_server_does_not_tell_is_named(
    pieces, finish_reason: str, note: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = await complete_one(streamed(*pieces))
    assert (result.text, result.finish_reason) == ("en", finish_reason)
    assert note in caplog.text


@pytest.mark.parametrize(
    ("written", "tokens"), [('"7"', 7), ("7.0", 7), ("7.5", 0), ("-7", 0), ("1" + "0" * 30, 0)]
)
async def test_a_count_of_tokens_is_a_number_that_a_model_can_have_used(
    written: str, tokens: int
) -> None:
    body = chat_completion("en").replace(
        b'"prompt_tokens": 7', b'"prompt_tokens": ' + written.encode()
    )
    assert (await complete_one(fixed(200, body))).prompt_tokens == tokens


async def test_other_servers_words_for_the_end_of_an_answer_are_known() -> None:
    body = chat_completion("en", finish_reason="eos")
    assert (await complete_one(fixed(200, body))).finish_reason == "stop"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/v1", "http://h:port/v1", "http://h/\x1b[31m", "h:8000/v1"]
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(EngineError, match="--server_url is"):
        async with open_engine("server", EngineOptions(model="m", server_url=url)):
            pass


async def test_a_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "e"}, {"type": "text", "text": "n"}]
    body = json.dumps(parts).encode()
    result = await complete_one(fixed(200, chat_completion("@").replace(b'"@"', body)))
    assert result.text == "en"


async def test_half_a_character_becomes_one_that_can_be_written() -> None:
    for answer in (fixed(200, chat_completion("e\ud800n")), streamed(
        piece("e\ud800n", finish_reason="stop"), USAGE, "[DONE]"
    )):  # fmt: skip
        made = await complete_one(answer)
        assert (made.text, made.repaired) == ("e\ufffdn", True)
    with pytest.raises(RequestRefusedError) as caught:
        await complete_one(fixed(400, b'{"error": {"message": "bad \\ud800 \\u001b[31m text"}}'))
    assert str(caught.value).encode().isascii()


@pytest.mark.parametrize("models", [b"<html>login</html>", None])
async def test_a_web_page_is_named(models: bytes | None) -> None:
    async def answer(path: str, _: bytes) -> tuple[int, bytes]:
        return (404, b"{}") if path.endswith("/models") and models is None else (200, b"<html>")

    async with faulty_proxy(answer) as proxy:
        options = EngineOptions(model="m", server_url=proxy.url)
        with pytest.raises(EngineError, match=r"answers with a web page.* usually ends in /v1"):
            async with open_engine("server", options) as engine:
                await engine.complete(ask("hello"))


async def test_a_redirect_that_loses_the_request_is_named() -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
        moved = b"HTTP/1.1 301 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        fine = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        writer.write(fine if start[1] == b"/elsewhere" else moved)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    engine = engine_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    with pytest.raises(EngineError, match=r"redirects to http://127.0.0.1:\d+/elsewhere"):
        await engine.complete(ask("hello"))
    await engine.aclose()
    server.close()


async def test_the_first_failure_of_each_kind_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with faulty_proxy(echo(), share=0.5, seed=2) as proxy:
        engine = engine_at(proxy.url, max_concurrency=8, request_timeout_seconds=1.0)
        async for _ in stream(engine, ((n, ask(f"text {n}")) for n in range(60))):
            pass
        await engine.aclose()
    shown = [record.getMessage() for record in caplog.records]
    for reason in ("HTTP 429: slow down", "HTTP 500", "not JSON", "connection lost", "no first"):
        assert sum(reason in message for message in shown) == 1, reason


async def test_a_server_that_never_succeeds_ends_the_run_with_its_reason() -> None:
    hopeless = Backoff(attempts=100, first_seconds=0.05, hopeless_seconds=0.3)
    async with faulty_proxy(fixed(503, b'{"error": {"message": "loading"}}')) as proxy:
        engine = engine_at(proxy.url, backoff=hopeless, request_timeout_seconds=0.3)
        with pytest.raises(EngineError, match=r"no request .* has succeeded .*HTTP 503: loading"):
            await engine.complete(ask("hello"))
        await engine.aclose()


async def test_what_is_waited_for_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "REPORT_SILENCE_SECONDS", 0.05)

    async def late(path: str, _: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0.2)
        return 200, chat_completion("fine")

    await complete_one(late)
    assert "has sent nothing for" in caplog.text
    assert "1 request(s) wait" in caplog.text


async def test_inputs_that_may_be_read_as_marks_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with faulty_proxy(echo()) as proxy:
        engine = engine_at(proxy.url)
        for text in ("a <|im_end|> b", "</think>", "harmless <b>", "1 < 2"):
            await engine.complete(ask(text, system="Think in <think></think>."))
        await engine.aclose()
    assert "an input holds '<|im_end|>'" in caplog.text
    assert "2 requests held text" in caplog.text


async def test_what_the_server_refuses_is_not_sent_again() -> None:
    async with faulty_proxy(fixed(400, b'{"error": {"message": "too long: 9 > 8"}}')) as proxy:
        engine = engine_at(proxy.url)
        with pytest.raises(RequestRefusedError, match="HTTP 400: too long: 9 > 8"):
            await engine.complete(ask("hello"))
        await engine.aclose()
    assert proxy.seen["fine"] == 1


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b"{}", "OPENAI_API_KEY"),
        (
            404,
            b'{"error": {"message": "no model m"}}',
            "path .HTTP 404: no model m.",
        ),
        (429, b'{"error": {"code": "insufficient_quota", "message": "pay"}}', "quota is used up"),
    ],
)
async def test_what_no_request_can_pass_ends_the_run(status, body, reason) -> None:
    with pytest.raises(EngineError, match=reason) as caught:
        await complete_one(fixed(status, body))
    assert not isinstance(caught.value, RequestFailedError)


async def test_retry_after_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        times.append(loop.time())
        return 200, chat_completion("fine")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url)
        proxy.share = 1.0
        proxy.rng.choice = lambda faults: "busy"  # type: ignore[method-assign]
        task = asyncio.create_task(engine.complete(ask("hello")))
        while not proxy.seen["busy"]:
            await asyncio.sleep(0.001)
        proxy.share, refused = 0.0, loop.time()
        assert (await task).text == "fine"
        await engine.aclose()
    # The proxy asks for 0.05 s; the clock was read a moment after its answer.
    assert times[0] - refused > 0.03


def test_retry_after_is_read_in_both_forms() -> None:
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < retry_after_seconds({"retry-after": later}) <= 90
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_seconds({"retry-after": "soon"}) == 0
    assert retry_after_seconds({}) == 0


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_is_read_from_the_field(field: str) -> None:
    result = await complete_one(fixed(200, chat_completion("en", **{field: "Latin script."})))
    assert (result.reasoning, result.text) == ("Latin script.", "en")
    assert (result.prompt_tokens, result.completion_tokens) == (7, 3)


async def test_reasoning_in_the_text_stays_there() -> None:
    result = await complete_one(fixed(200, chat_completion("Latin.</think>en")))
    assert (result.reasoning, result.text) == (None, "Latin.</think>en")


async def test_a_reasoning_cut_by_length_has_no_text() -> None:
    body = chat_completion(None, reasoning="Latin", finish_reason="length")
    result = await complete_one(fixed(200, body))
    assert (result.text, result.finish_reason) == ("", "length")


async def test_a_content_filter_is_told() -> None:
    with pytest.raises(RequestFailedError, match="content_filter"):
        await complete_one(fixed(200, chat_completion("", finish_reason="content_filter")))


async def test_the_request_says_what_sampling_asks_for() -> None:
    bodies = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        bodies.append(json.loads(body))
        return 200, chat_completion("fine")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url, chat_template_kwargs={"enable_thinking": False})
        await engine.complete(
            ask(
                "hello", system="Be brief.", temperature=0.5, top_p=0.9, seed=4, max_tokens=9,
                max_thinking_tokens=5, choices=("a", "b"), prefill="It is",
            )
        )  # fmt: skip
        await engine.aclose()
    (body,) = bodies
    assert body["model"] == "m"
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant"]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.5, 0.9, 4)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["max_tokens"], body["thinking_token_budget"]) == (9, 5)
    assert body["structured_outputs"] == {"choice": ["a", "b"]}
    assert body["continue_final_message"] is True


async def test_a_schema_is_sent_as_servers_of_any_make_take_it() -> None:
    bodies = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        bodies.append(json.loads(body))
        return 200, chat_completion("{}")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url)
        await engine.complete(ask("hello", json_schema='{"type": "object"}'))
        await engine.aclose()
    assert bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


async def test_concurrency_is_bounded() -> None:
    async with faulty_proxy(echo()) as proxy:
        engine = engine_at(proxy.url, max_concurrency=5)
        async for _ in stream(engine, ((n, ask(f"text {n}")) for n in range(60))):
            pass
        await engine.aclose()
    assert 1 < proxy.most_in_flight <= 5


async def test_the_key_is_sent_and_never_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    caplog.set_level(logging.INFO)
    async with faulty_proxy(fixed(401, b'{"error": {"message": "bad key"}}')) as proxy:
        options = EngineOptions(model="m", server_url=proxy.url)
        async with open_engine("server", options) as engine:
            with pytest.raises(EngineError, match="OPENAI_API_KEY holds a key") as caught:
                await engine.complete(ask("hello"))
    assert "secret" not in caplog.text + str(caught.value)


async def test_opening_says_what_is_wrong() -> None:
    async def open_at(**options) -> None:
        async with open_engine("server", EngineOptions(**options)):
            pass

    with pytest.raises(EngineError, match=r"no server answers at http://127.0.0.1:9"):
        await open_at(model="m", server_url="http://127.0.0.1:9/v1")
    async with faulty_proxy(echo()) as proxy:
        with pytest.raises(EngineError, match="does not serve 'other'; it serves m"):
            await open_at(model="other", server_url=proxy.url)
        await open_at(model="m", server_url=proxy.url)


async def test_a_server_that_is_gone_ends_the_run() -> None:
    async with faulty_proxy(echo()) as proxy:
        engine = engine_at(proxy.url, backoff=Backoff(attempts=2, first_seconds=0.01))
        assert (await engine.complete(ask("hello"))).text == "hello #0"
    with pytest.raises(EngineError, match="no server answers") as caught:
        await engine.complete(ask("hello"))
    assert not isinstance(caught.value, RequestFailedError)
    await engine.aclose()


def token_of(text: str, **alternatives: float) -> dict[str, object]:
    top = [{"token": name, "logprob": value, "bytes": None} for name, value in alternatives.items()]
    return {"token": text, "logprob": alternatives[text], "top_logprobs": top}


async def test_the_scores_of_an_answer_come_by_their_texts() -> None:
    async def answer(path: str, body: bytes) -> tuple[int, object]:
        asked = json.loads(body)
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
        pieces = []
        for text, others in (("So", {}), ("</th", {}), ("ink>", {}), ("en", {"de": -2.0})):
            made = piece(text)
            made["choices"][0]["logprobs"] = {
                "content": [token_of(text, **{text: -0.25, **others})]
            }
            pieces.append(made)
        return 200, events(*pieces, piece("", finish_reason="stop"), USAGE, "[DONE]")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url)
        result = await engine.complete(ask("hello", top_logprobs=2))
        await engine.aclose()
    assert result.logprobs is not None
    assert result.logprobs.written == ("en",)
    assert result.logprobs.candidates() == [[("en", -0.25), ("de", -2.0)]]


async def test_a_server_without_scores_is_told() -> None:
    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        return 200, chat_completion("en")

    async with faulty_proxy(answer) as proxy:
        engine = engine_at(proxy.url)
        with pytest.raises(RequestFailedError, match="returns no log-probabilities"):
            await engine.complete(ask("hello", top_logprobs=2))
        await engine.aclose()
