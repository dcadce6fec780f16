"""The server engine against the real server: vLLM's, on a CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engines.asking import LONG_PROMPT, ask
from engines.vllm_server import vllm_server

from prompt_distillation.engines import (
    Completion,
    EngineOptions,
    RequestFailedError,
    open_engine,
    stream,
)
from prompt_distillation.errors import EngineError

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def server_url(stopping_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    arguments = [
        "--model", str(stopping_model), "--served-model-name", "tiny",
        "--reasoning-parser", "qwen3", "--enable-prompt-tokens-details",
    ]  # fmt: skip
    with vllm_server(arguments, log=tmp_path_factory.mktemp("server") / "log") as url:
        yield url


def options(url: str, model: str = "tiny") -> EngineOptions:
    return EngineOptions(model=model, server_url=url, max_concurrency=16)


async def test_a_real_server_completes_what_it_is_sent(server_url: str) -> None:
    requests = [ask(f"text {n}", system=LONG_PROMPT, max_tokens=20) for n in range(40)]
    seen: list[str] = []
    async with open_engine("server", options(server_url)) as engine:
        results = {key: result async for key, result in stream(engine, enumerate(requests))}
        again = await engine.complete(replace(requests[3], on_text=seen.append))
    assert sorted(results) == list(range(40))
    assert all(isinstance(result, Completion) for result in results.values())
    assert {result.finish_reason for result in results.values()} <= {"stop", "length"}
    # The random teacher never closes its thinking: all it writes is reasoning.
    assert again.reasoning == results[3].reasoning
    assert again.reasoning
    assert again.text == ""
    assert seen[-1] == again.reasoning
    assert again.first_token_seconds is not None
    assert 0 < again.first_token_seconds < again.seconds
    assert again.cached_tokens is not None
    assert again.cached_tokens > 0.8 * again.prompt_tokens


async def test_a_real_server_holds_thinking_to_its_budget(server_url: str) -> None:
    async with open_engine("server", options(server_url)) as engine:
        results = [
            await engine.complete(
                ask("x", temperature=1.0, seed=seed, max_tokens=30, max_thinking_tokens=3)
            )
            for seed in range(12)
        ]
    answered = [result for result in results if result.text]
    assert answered
    assert all(len(result.reasoning or "") <= 3 for result in answered)


async def test_a_real_server_tells_what_is_wrong(server_url: str) -> None:
    with pytest.raises(EngineError, match="does not serve 'other'; it serves tiny"):
        async with open_engine("server", options(server_url, "other")):
            pass
    async with open_engine("server", options(server_url)) as engine:
        with pytest.raises(RequestFailedError, match=r"HTTP 400: .*4096"):
            await engine.complete(ask("x" * 5000))
        assert (await engine.complete(ask("fine"))).completion_tokens > 0
