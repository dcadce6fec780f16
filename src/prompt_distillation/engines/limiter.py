"""How many requests a server is sent at once: found out by trying, as TCP finds its window.

Additive increase, multiplicative decrease (Chiu and Jain, 1989): each sign of overload halves the
limit, each success raises it: by one up to half of what was last too much, slowly beyond.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """Leave to send one request; knows under which limit it was given."""

    generation: int


class AdaptiveLimiter:
    """Bounds the requests in flight between one and ``maximum``.

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
        """Wait for leave to send a request, and give it back afterwards."""
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
        """The server answered: it may take more."""
        step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
        self._limit = min(self._maximum, self._limit + step)

    def overloaded(self, slot: Slot, *, hold_seconds: float = 0.0) -> None:
        """The server was too busy for the request that ``slot`` was given for.

        Requests that were in flight together see one overload together; it counts once.

        Args:
            slot: of the request.
            hold_seconds: for how long the server wants no requests at all.
        """
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + hold_seconds)
        if slot.generation == self._generation:
            self._generation += 1
            self._limit = max(1.0, self._limit / 2)
            self._threshold = self._limit
