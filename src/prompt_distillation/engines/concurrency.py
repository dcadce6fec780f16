"""How much work is in flight at once: the one loop that labelling and evaluation share.

Write what is done for one input as a coroutine, and let `map_concurrently` run it for all inputs, a
bounded number at a time::

    slots = asyncio.Semaphore(engine.concurrency)

    async def label_one(item):                      # several requests for one input
        async def vote(request):
            async with slots:                       # all inputs share the engine's slots
                return await engine.complete(request)

        return decide(await gather_or_cancel([vote(r) for r in requests_for(item)]))

    results = map_concurrently(label_one, items, limit=engine.concurrency)
    async with aclosing(results), alongside(report_progress()):
        async for label in results:                 # as they finish
            ...

`stream` is the short form for one request per input. In each of them the first error is raised as
it is, not in a group, after everything else has been cancelled.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prompt_distillation.engines.base import Request, RequestFailedError
from prompt_distillation.errors import EngineError

Item = TypeVar("Item")
Key = TypeVar("Key")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Completer(Protocol[Result_co]):
    """An engine, or a function that uses one."""

    @property
    def concurrency(self) -> int:
        """How many requests to keep in flight."""

    async def complete(self, request: Request) -> Result_co:
        """See `Engine.complete`."""


_Outcome = tuple[Any, Exception | None]
"""A result, or what went wrong."""


async def map_concurrently(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], *, limit: int
) -> AsyncGenerator[Result, None]:
    """Run ``work`` on every item, ``limit`` at a time; yield the results as they finish.

    Items are taken only when there is room for them, so that a million of them need no memory,
    and finished results wait until they are read. Wrap it in `contextlib.aclosing` where the
    loop over it may end early: that cancels what is in flight.

    Raises:
        Exception: the first error of ``work`` or of ``items``; the rest is cancelled.
    """
    source = iter(items)
    finished: asyncio.Queue[_Outcome | None] = asyncio.Queue(maxsize=limit)
    workers = [asyncio.create_task(_work_off(source, work, finished)) for _ in range(limit)]
    try:
        running = len(workers)
        while running:
            outcome = await finished.get()
            if outcome is None:
                running -= 1
            elif outcome[1] is not None:
                raise outcome[1]
            else:
                yield outcome[0]
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work_off(
    source: Iterator[Item],
    work: Callable[[Item], Awaitable[Any]],
    finished: "asyncio.Queue[_Outcome | None]",
) -> None:
    """Take item after item; None says that there are no more."""
    try:
        for item in source:
            await finished.put((await work(item), None))
    except asyncio.CancelledError:
        # An engine whose own task was cancelled raises it too; then it was not asked for.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        await finished.put((None, EngineError("a request was cancelled inside the engine")))
    except Exception as error:  # noqa: BLE001 - handed to the consumer, who raises it
        await finished.put((None, error))
    else:
        await finished.put(None)


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run coroutines together; return their results in order."""
    coroutines = list(work)
    if len(coroutines) == 1:  # needs no task
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except BaseExceptionGroup as errors:
        raise _first_of(errors) from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine, such as a report every few seconds, for as long as the block runs."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as errors:
        raise _first_of(errors) from None


def _first_of(errors: BaseException) -> BaseException:
    """The first of what went wrong at once, which is nearly always the cause of the rest."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


async def stream(
    engine: Completer[Result], requests: Iterable[tuple[Key, Request]]
) -> AsyncGenerator[tuple[Key, Result | RequestFailedError], None]:
    """Yield ``(key, outcome)`` as they finish, with as many requests in flight as the engine wants.

    A request that failed comes out as its error.
    """

    async def ask(numbered: tuple[Key, Request]) -> tuple[Key, Result | RequestFailedError]:
        key, request = numbered
        try:
            return key, await engine.complete(request)
        except RequestFailedError as error:
            return key, error

    async with aclosing(map_concurrently(ask, requests, limit=engine.concurrency)) as outcomes:
        async for outcome in outcomes:
            yield outcome


@dataclass(frozen=True, slots=True)
class Slot:
    """Permission to send one request; knows which limit it was given under."""

    generation: int


class AdaptiveLimiter:
    """Finds out how many requests a server takes at once, as TCP finds its window.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): each sign of overload halves
    the limit, each success raises it: by one up to half of what was last too much, slowly beyond.

    Args:
        maximum: where it starts, and what it never exceeds.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = float(maximum)
        self._limit = float(maximum)
        self._threshold = float(maximum)
        self._generation = 0
        self._in_flight = 0
        self._resume_at = 0.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait until one more request may be sent; the slot is free again after the block."""
        loop = asyncio.get_running_loop()
        async with self._changed:
            await self._changed.wait_for(lambda: self._in_flight < self.limit)
            self._in_flight += 1
        try:
            while (wait := self._resume_at - loop.time()) > 0:
                await asyncio.sleep(wait)
            yield Slot(self._generation)
        finally:
            self._in_flight -= 1
            async with self._changed:
                self._changed.notify_all()

    def succeeded(self) -> None:
        """The server answered, so it may be able to take more."""
        step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
        self._limit = min(self._maximum, self._limit + step)

    def overloaded(self, slot: Slot, *, hold_seconds: float = 0.0) -> None:
        """The server was too busy for this request.

        Requests that were in flight together suffer from the same overload; it counts once.
        """
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + hold_seconds)
        if slot.generation == self._generation:
            self._generation += 1
            self._limit = max(1.0, self._limit / 2)
            self._threshold = self._limit
