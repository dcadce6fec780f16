import asyncio
from contextlib import aclosing

import pytest

from prompt_distillation.engines import alongside, gather_or_cancel, map_concurrently
from prompt_distillation.engines.concurrency import AdaptiveLimiter
from prompt_distillation.errors import EngineError


async def all_of(results):
    async with asyncio.timeout(5):
        return [result async for result in results]


async def test_every_item_is_worked_on_once_and_no_more_than_the_limit_at_a_time() -> None:
    inside, most = 0, 0

    async def work(item: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.0001 * (item % 7))
        inside -= 1
        return item

    assert sorted(await all_of(map_concurrently(work, range(100), limit=8))) == list(range(100))
    assert most == 8


async def test_items_are_taken_only_when_there_is_room() -> None:
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    async def work(item: int) -> int:
        return item

    async with aclosing(map_concurrently(work, items(), limit=4)) as results:
        async for _ in results:
            break
    assert len(taken) <= 4 + 4 + 1


@pytest.mark.parametrize("where", ["work", "items"])
async def test_the_first_error_is_raised_and_the_rest_is_cancelled(where: str) -> None:
    cancelled = 0

    def items():
        yield from range(3)
        if where == "items":
            raise ValueError("broken")
        yield 3

    async def work(item: int) -> None:
        nonlocal cancelled
        if item == 3:
            raise ValueError("broken")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    with pytest.raises(ValueError, match="broken"):
        await all_of(map_concurrently(work, items(), limit=4))
    assert cancelled == 3


async def test_work_that_is_cancelled_from_inside_does_not_hang() -> None:
    async def work(item: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(EngineError, match="cancelled inside the engine"):
        await all_of(map_concurrently(work, range(2), limit=1))


async def test_several_requests_of_one_input_end_together() -> None:
    ended = []

    async def ask(number: int) -> int:
        if number == 2:
            raise EngineError("gone")
        try:
            await asyncio.sleep(60 if number > 2 else 0)
        finally:
            ended.append(number)
        return number

    assert await gather_or_cancel([ask(0), ask(1)]) == [0, 1]
    with pytest.raises(EngineError, match="gone"):
        await gather_or_cancel([ask(2), ask(3)])
    assert ended == [0, 1, 3]


async def test_an_error_of_what_runs_alongside_ends_the_block() -> None:
    async def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        async with asyncio.timeout(5), alongside(fail()):
            await asyncio.sleep(60)
    with pytest.raises(ValueError, match="of the block"):
        async with asyncio.timeout(5), alongside(asyncio.sleep(60)):
            raise ValueError("of the block")


async def test_overload_halves_the_limit_once_for_requests_sent_together() -> None:
    limiter = AdaptiveLimiter(16)
    async with limiter.slot() as first, limiter.slot() as second:
        limiter.overloaded(first)
        limiter.overloaded(second)
    assert limiter.limit == 8
    async with limiter.slot() as later:
        limiter.overloaded(later)
    assert limiter.limit == 4


async def test_the_limit_never_falls_below_one_and_recovers() -> None:
    limiter = AdaptiveLimiter(8)
    for _ in range(20):
        async with limiter.slot() as slot:
            limiter.overloaded(slot)
    assert limiter.limit == 1
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 8


async def test_no_more_than_the_limit_are_let_in() -> None:
    limiter = AdaptiveLimiter(3)
    inside, most = 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with limiter.slot():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 3


async def test_a_cancelled_request_gives_its_slot_back() -> None:
    limiter = AdaptiveLimiter(1)

    async def hold() -> None:
        async with limiter.slot():
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(1), limiter.slot():
        pass


async def test_a_hold_keeps_everybody_out() -> None:
    limiter = AdaptiveLimiter(4)
    loop = asyncio.get_running_loop()
    async with limiter.slot() as slot:
        limiter.overloaded(slot, hold_seconds=0.05)
    started = loop.time()
    async with limiter.slot():
        assert loop.time() - started > 0.03
