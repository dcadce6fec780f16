"""How long a query takes: alone on the machine, and beside others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from prompt_distillation.data.comparison import Latency
from prompt_distillation.engines import Completion, Engine, Request, RequestFailedError, stream


@dataclass(frozen=True)
class _Bounded:
    """An engine with fewer requests in flight."""

    engine: Engine
    concurrency: int

    @property
    def name(self) -> str:
        return self.engine.name

    async def complete(self, request: Request) -> Completion:
        return await self.engine.complete(request)

    async def aclose(self) -> None:
        """The engine belongs to whoever opened it."""


async def measure_latency(
    engine: Engine, requests: Sequence[Request], *, concurrency: int
) -> Latency:
    """Send ``requests`` with ``concurrency`` in flight; one more goes before, to warm the caches.

    Raises:
        RequestFailedError: one could not be completed.
    """
    await engine.complete(requests[0])
    seconds, first_tokens = [], []
    started = time.perf_counter()
    async for _, outcome in stream(_Bounded(engine, concurrency), enumerate(requests)):
        if isinstance(outcome, RequestFailedError):
            raise outcome
        seconds.append(outcome.seconds)
        if outcome.first_token_seconds is not None:
            first_tokens.append(outcome.first_token_seconds)
    elapsed = time.perf_counter() - started
    return Latency(
        n=len(seconds),
        concurrency=concurrency,
        p50=percentile(seconds, 50),
        p95=percentile(seconds, 95),
        mean=sum(seconds) / len(seconds),
        first_token_p50=percentile(first_tokens, 50) if first_tokens else None,
        first_token_p95=percentile(first_tokens, 95) if first_tokens else None,
        queries_per_second=len(seconds) / elapsed,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The ``share`` percentile, interpolated; ``values`` must not be empty."""
    import numpy as np

    return float(np.percentile(values, share))
