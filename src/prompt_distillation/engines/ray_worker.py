"""One engine in a process of its own, on whichever machine of a cluster Ray starts it."""

import os
import platform
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import Completion, Engine, EngineOptions, Request
from prompt_distillation.engines.devices import memory_bytes, share_cores
from prompt_distillation.engines.opening import open_engine
from prompt_distillation.errors import EngineError, ModelError


@dataclass(frozen=True, kw_only=True)
class OpenedEngine:
    """What a worker tells of the engine that it opened.

    Attributes:
        name: of the engine.
        concurrency: how many requests it wants in flight.
    """

    name: str
    concurrency: int


class EngineWorker:
    """What runs as a Ray actor: opens an engine and completes many requests at once.

    What a user can mend comes back as a value: a raised exception would arrive as Ray's own, its
    message a traceback.

    Args:
        share: which share of its machine's cores is this worker's, from 0.
        shares: into how many they are cut; 1 where it has them all, or a GPU.
    """

    def __init__(self, *, share: int = 0, shares: int = 1) -> None:
        self._share = share
        self._shares = shares
        self._engine: Engine | None = None
        self._stack = AsyncExitStack()

    async def where(self) -> str:
        """The machine and the process, as a person would look for them."""
        return f"{platform.node()}, process {os.getpid()}"

    async def open(
        self, kind: EngineKind, options: EngineOptions
    ) -> OpenedEngine | EngineError | ModelError:
        """Load the model; what `open_engine` raises is returned."""
        if self._shares > 1:
            _keep_to_share(self._share, self._shares)
        try:
            self._engine = await self._stack.enter_async_context(open_engine(kind, options))
        except (EngineError, ModelError) as error:
            return error
        return OpenedEngine(name=self._engine.name, concurrency=self._engine.concurrency)

    async def complete(self, request: Request) -> Completion | EngineError:
        """Complete one conversation; what the engine raises is returned."""
        if self._engine is None:
            return EngineError("this worker's engine is closed")
        try:
            return await self._engine.complete(request)
        except EngineError as error:
            return error

    async def close(self) -> None:
        """Free the engine."""
        self._engine = None
        await self._stack.aclose()


def _keep_to_share(share: int, shares: int) -> None:
    """Leave the other cores, and the other shares of vLLM's memory, to this machine's others."""
    cores = share_cores(shares).split("|")[share]
    if not cores:  # fewer cores than workers: they have to share
        return
    # vLLM's processes inherit it, and are cut into shares within it (`vllm_start`).
    os.sched_setaffinity(0, map(int, cores.split(",")))
    gib = memory_bytes() // (8 << 30) // shares
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, gib))))
