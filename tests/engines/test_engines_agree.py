"""What holds for every local engine, and that the two write the same text."""

import asyncio
from dataclasses import replace

import pytest
from engines.asking import LONG_PROMPT, ask

from prompt_distillation.engines import Completion, Engine, RequestFailedError, stream

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(f"{request.param}_engine")


# The tiny model walks from token to token: another first one leads to another end.
REQUESTS = [
    ask(
        f"text {number} " + "x" * number,
        system=LONG_PROMPT,
        prefill=chr(97 + number),
        max_tokens=40,
    )
    for number in range(24)
]


async def complete_all(engine: Engine, requests=tuple(REQUESTS)) -> list[Completion]:
    done = {key: result async for key, result in stream(engine, enumerate(requests))}
    return [done[key] for key in range(len(requests))]


@pytest.mark.vllm
async def test_both_engines_write_the_same_text(transformers_engine, vllm_engine) -> None:
    ours = await complete_all(transformers_engine)
    theirs = await complete_all(vllm_engine)
    for one, other in zip(ours, theirs, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
    # Kernels round differently, so a near tie goes the other way now and then.
    same = [
        (one.text, one.finish_reason, one.completion_tokens)
        == (other.text, other.finish_reason, other.completion_tokens)
        for one, other in zip(ours, theirs, strict=True)
    ]
    assert sum(same) >= 0.75 * len(same)
    # Otherwise the comparison would not have covered both ends.
    assert {result.finish_reason for result in ours} == {"stop", "length"}


async def test_a_text_can_be_followed_while_it_is_written(engine: Engine) -> None:
    full = await complete_all(engine)
    longest = max(range(len(full)), key=lambda number: full[number].completion_tokens)
    seen: list[str] = []
    result = await engine.complete(replace(REQUESTS[longest], on_text=seen.append))
    assert len(set(seen)) > 1
    # The last character may be half of one, until its other half comes.
    assert all(result.text.startswith(text.rstrip("\ufffd")) for text in seen)


async def test_length_is_exactly_the_budget(engine: Engine) -> None:
    result = await engine.complete(ask("hello", max_tokens=1))
    assert result.completion_tokens == 1
    full = await complete_all(engine)
    cut = [result for result in full if result.finish_reason == "length"]
    assert {result.completion_tokens for result in cut} == {40}
    assert all(r.completion_tokens < 41 for r in full)


async def test_a_seed_draws_the_same_text_alone_and_in_a_crowd(engine: Engine) -> None:
    def request(seed: int):
        return ask("hello", temperature=0.9, top_p=0.95, seed=seed, max_tokens=30)

    alone = await engine.complete(request(7))
    crowd = await complete_all(engine, [request(seed) for seed in range(12)])
    assert crowd[7].text == alone.text
    assert len({result.text for result in crowd}) > 6


async def test_greedy_and_drawn_requests_share_a_batch(engine: Engine) -> None:
    greedy = ask("same text", max_tokens=20)
    drawn = ask("same text", max_tokens=20, temperature=2.0, seed=3)
    results = await complete_all(engine, [greedy, drawn] * 4)
    assert len({result.text for result in results[::2]}) == 1
    assert len({result.text for result in results[1::2]}) == 1
    assert results[0].text != results[1].text


async def test_the_shared_prompt_is_computed_once(engine: Engine) -> None:
    system = "A prompt that no other test sends. " * 20
    first = await engine.complete(ask("one", system=system))
    await engine.complete(ask("two", system=system))
    third = await engine.complete(ask("three", system=system))
    assert first.cached_tokens is not None
    assert third.cached_tokens is not None
    assert third.cached_tokens > 0.8 * third.prompt_tokens > first.cached_tokens


async def test_times_are_told(engine: Engine) -> None:
    result = await engine.complete(ask("hello", max_tokens=8))
    assert result.first_token_seconds is not None
    assert 0 < result.first_token_seconds <= result.seconds


async def test_thinking_ends_at_its_budget_and_its_mark_stays_in_the_text(engine: Engine) -> None:
    results = await complete_all(
        engine,
        [
            ask("think", temperature=1.0, seed=seed, max_tokens=40, max_thinking_tokens=4)
            for seed in range(12)
        ],
    )
    marked = [result.text.partition("</think>") for result in results if "</think>" in result.text]
    # The others ended their turn before the budget was spent.
    assert len(marked) > 3
    # vLLM counts the line feed that the template writes after <think>.
    assert {len(reasoning) for reasoning, _, _ in marked} <= {3, 4}
    assert any(answer for _, _, answer in marked)
    assert not any("<|im_end|>" in result.text for result in results)


async def test_choices_constrain_the_text(engine: Engine) -> None:
    # None of their letters ends the turn of the tiny model.
    choices = ("fr", "fr-FR", "hi", "uk", "vi", "zh", "da", "ar")
    results = await complete_all(
        engine,
        [ask("x", temperature=2.0, seed=seed, choices=choices) for seed in range(32)],
    )
    assert {result.text for result in results} <= set(choices)
    assert {result.finish_reason for result in results} == {"stop"}
    assert len({result.text for result in results}) > 1


async def test_a_prefill_is_read_and_not_repeated(engine: Engine) -> None:
    plain = await engine.complete(ask("hello"))
    led = await engine.complete(ask("hello", prefill="The answer is"))
    assert led.prompt_tokens == plain.prompt_tokens + len("The answer is")
    assert not led.text.startswith("The answer is")


async def test_a_prompt_that_is_too_long_fails_alone(engine: Engine) -> None:
    results = await complete_all(engine, [ask("fine"), ask("x" * 5000), ask("fine too")])
    assert isinstance(results[1], RequestFailedError)
    assert "4096" in str(results[1])
    assert isinstance(results[0], Completion)
    assert isinstance(results[2], Completion)


async def test_a_cancelled_request_leaves_the_others(engine: Engine) -> None:
    doomed = asyncio.create_task(engine.complete(ask("doomed", max_tokens=2000)))
    for _ in range(5):
        await asyncio.sleep(0)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert (await engine.complete(ask("alive"))).completion_tokens > 0


async def test_streaming_draws_requests_as_it_needs_them(engine: Engine) -> None:
    drawn = 0

    def requests():
        nonlocal drawn
        for number in range(10**9):
            drawn += 1
            yield number, ask(f"number {number}", max_tokens=2)

    results = stream(engine, requests())
    async for _ in results:
        break
    await results.aclose()
    assert drawn <= 3 * engine.concurrency


@pytest.mark.vllm
async def test_both_engines_give_an_answer_the_same_probabilities(
    transformers_engine, vllm_engine
) -> None:
    requests = [
        ask("text", system=LONG_PROMPT, prefill=prefill, max_tokens=4, top_logprobs=5)
        for prefill in ("</think>a", "</think>b", "</think>c")
    ]
    ours = await complete_all(transformers_engine, requests)
    theirs = await complete_all(vllm_engine, requests)
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs is not None
        assert other.logprobs is not None
        if one.text != other.text:
            continue  # a near tie
        assert one.logprobs.written == other.logprobs.written
        pairs = zip(one.logprobs.candidates(), other.logprobs.candidates(), strict=True)
        for mine, yours in pairs:
            assert dict(mine) == pytest.approx(dict(yours), abs=0.05)
