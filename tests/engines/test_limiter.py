import asyncio

from prompt_distillation.engines.limiter import AdaptiveLimiter


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
