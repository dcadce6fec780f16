"""Engines on many machines: a pool of Ray actors behind the Protocol of one engine.

Each actor opens a real engine in a process of its own, on its own GPUs, and has many requests in
flight. An actor that dies is replaced, and what it had not finished goes to the others. A request
carries its own seed, so where it is completed does not matter, and the caller keeps one journal
as ever.

Every machine of the cluster needs this package, of the same version, and the same Python and Ray;
a model or an adapter that is a folder has to be at the same path on all of them.

`RayEngine` is the pool, `RayActor` the near end of one worker; what runs on the other machine is
`ray_cluster.EngineWorker`.
"""

import asyncio
import logging
import math
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    Request,
    RequestFailedError,
)
from prompt_distillation.engines.ray_cluster import (
    EngineWorker,
    OpenedEngine,
    Placement,
    import_ray,
    joined_cluster,
    plan_workers,
)
from prompt_distillation.errors import EngineError, ModelError

logger = logging.getLogger(__name__)

REPLACEMENTS_PER_WORKER = 3
# Before an engine that did not open is tried again: memory of the one before may still be in use.
REOPEN_SECONDS = 10.0
REPORT_SECONDS = 60.0
# vLLM takes up to 20 s to stop in order.
CLOSE_SECONDS = 30.0
# Ray's own limit of calls in flight; what bounds them here is the engine's concurrency.
CALLS_AT_ONCE = 10_000


class WorkerDiedError(Exception):
    """A worker is gone, or its engine is; the message says why."""


class RayActor:
    """One `EngineWorker` on a cluster."""

    def __init__(self, placement: Placement) -> None:
        self._ray = import_ray()
        self._is_open = False
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Soft: where that machine is lost, another takes its place.
        node = placement.node_id
        strategy = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        actor_class = self._ray.remote(EngineWorker).options(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_concurrency=CALLS_AT_ONCE,
            scheduling_strategy=strategy,
        )
        self._actor = actor_class.remote(share=placement.share, shares=placement.shares)

    async def where(self) -> str:
        """Its machine and process; returns when Ray has found room for it and started it."""
        where: str = await self._answer(self._actor.where.remote())
        return where

    async def open(self, kind: EngineKind, options: EngineOptions) -> OpenedEngine:
        """Load the model there."""
        outcome = await self._answer(self._actor.open.remote(kind, options))
        if not isinstance(outcome, OpenedEngine):
            raise outcome
        self._is_open = True
        return outcome

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation there."""
        answer = self._actor.complete.remote(request)
        try:
            outcome = await self._answer(answer)
        except asyncio.CancelledError:
            self._ray.cancel(answer)
            raise
        if isinstance(outcome, Completion):
            return outcome
        if isinstance(outcome, RequestFailedError):
            raise outcome
        raise WorkerDiedError(str(outcome))

    async def end(self) -> None:
        """Stop the engine in order, and the process in any case.

        One that is still opening is not waited for: Ray ends a worker's child processes too.
        """
        try:
            if self._is_open:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._answer(self._actor.close.remote())
        except (WorkerDiedError, TimeoutError) as error:
            logger.debug("a worker did not stop in order: %s", error)
        finally:
            self._ray.kill(self._actor)

    async def _answer(self, answer: Any) -> Any:
        try:
            return await answer
        except self._ray.exceptions.RayTaskError:
            raise  # a fault in the worker's code, with its traceback
        except self._ray.exceptions.RayError as error:
            raise WorkerDiedError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Why Ray says that an actor died, in a line: its message is a block of ids, then the reason.

    Raises:
        EngineError: another worker would not do better.
    """
    text = " ".join(str(error).split())
    _, found, module = text.partition("No module named ")
    if found:
        raise EngineError(
            f"a machine of the Ray cluster does not have the module {module.split()[0]}; install "
            "this package there, as it is installed here"
        ) from error
    cause = re.search(r"The actor (?:is dead|died) because (.*)", text)
    return (cause[1] if cause else text)[:200]


@dataclass(slots=True, eq=False)
class _Worker:
    actor: RayActor
    concurrency: int
    died: asyncio.Future[str]
    in_flight: int = 0


class RayEngine:
    """Workers on a Ray cluster, as one engine. Use `start_on_ray`.

    ``name`` is that of the workers' engines, once one is open.
    """

    name = "ray"
    concurrency = 1

    def __init__(
        self,
        kind: EngineKind,
        options: EngineOptions,
        placements: Sequence[Placement],
        cluster: AsyncExitStack,
    ) -> None:
        self._kind = kind
        self._options = options
        self._cluster = cluster
        self._total_concurrency = options.max_concurrency
        if options.max_concurrency is not None:
            each = math.ceil(options.max_concurrency / len(placements))
            self._options = replace(options, max_concurrency=each)
        self._ready: list[_Worker] = []
        self._has_opened = False
        self._changed = asyncio.Condition()
        self._failure: Exception | None = None
        self._replacements_left = REPLACEMENTS_PER_WORKER * len(placements)
        self._count = len(placements)
        self._keepers = [
            asyncio.create_task(self._keep(number, placement))
            for number, placement in enumerate(placements, start=1)
        ]

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation on the worker with most room; if it dies, on another."""
        while True:
            worker = await self._acquire()
            try:
                return await worker.actor.complete(request)
            except WorkerDiedError as error:
                if not worker.died.done():
                    worker.died.set_result(str(error))
            finally:
                worker.in_flight -= 1
                async with self._changed:
                    self._changed.notify()

    async def wait_until_open(self) -> None:
        """Wait for the first engine; the others join when they are open."""
        while True:
            try:
                async with asyncio.timeout(REPORT_SECONDS), self._changed:
                    await self._changed.wait_for(lambda: self._has_opened or self._failure)
                break
            except TimeoutError:
                logger.info("waiting for the first of %d engines on Ray to open", self._count)
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """Free the engines and leave the cluster."""
        self._failure = self._failure or EngineError("the engine on Ray is closed")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()
        await self._cluster.aclose()

    async def _acquire(self) -> _Worker:
        """Reserve room on the worker that has the largest share of its own left."""
        async with self._changed:
            while self._failure is None:
                alive = (worker for worker in self._ready if not worker.died.done())
                worker = min(alive, key=lambda one: one.in_flight / one.concurrency, default=None)
                if worker is not None and worker.in_flight < worker.concurrency:
                    worker.in_flight += 1
                    return worker
                await self._changed.wait()
        raise self._failure

    async def _keep(self, number: int, placement: Placement) -> None:
        """Keep worker ``number`` running, by replacing it, until the pool is closed or fails."""
        try:
            while True:
                try:
                    await self._serve(number, placement)
                except WorkerDiedError as error:
                    self._allow_replacement(number, error)
                except (EngineError, ModelError) as error:
                    if not self._has_opened:  # nor would it the next time
                        raise
                    self._allow_replacement(number, error)
                    await asyncio.sleep(REOPEN_SECONDS)
        except Exception as error:  # noqa: BLE001 - raised by the caller that waits
            self._failure = self._failure or error
            async with self._changed:
                self._changed.notify_all()

    def _allow_replacement(self, number: int, error: Exception) -> None:
        reason = str(error)
        if not self._replacements_left:
            raise EngineError(
                f"Ray workers died {REPLACEMENTS_PER_WORKER * self._count + 1} times, the last "
                f"because: {reason}; fix the cause, then run the same command again to continue"
            ) from error
        self._replacements_left -= 1
        logger.warning(
            "worker %d died and is replaced; its unfinished requests go to the others: %s",
            number, reason,
        )  # fmt: skip

    async def _serve(self, number: int, placement: Placement) -> None:
        actor = RayActor(placement)
        try:
            where = await actor.where()
            opened = await actor.open(self._kind, self._options)
            logger.info("worker %d of %d is open on %s", number, self._count, where)
            reason = await self._until_death(actor, opened)
            raise WorkerDiedError(f"{where}: {reason}")
        finally:
            await actor.end()

    async def _until_death(self, actor: RayActor, opened: OpenedEngine) -> str:
        """Let requests come to a worker until it is found dead; returns the reason."""
        worker = _Worker(actor, opened.concurrency, asyncio.get_running_loop().create_future())
        if not self._has_opened:
            self._has_opened = True
            self.name = opened.name
            self.concurrency = self._total_concurrency or opened.concurrency * self._count
        self._ready.append(worker)
        try:
            async with self._changed:
                self._changed.notify_all()
            return await worker.died
        finally:
            self._ready.remove(worker)


async def start_on_ray(kind: EngineKind, options: EngineOptions) -> RayEngine:
    """Join the cluster and open an engine on each worker; returns when the first is open."""
    assert options.ray_address is not None
    async with AsyncExitStack() as stack:
        machines = await stack.enter_async_context(joined_cluster(options.ray_address))
        placements = plan_workers(machines, options, workers=options.ray_workers)
        engine = RayEngine(kind, _for_workers(options), placements, stack.pop_all())
    try:
        await engine.wait_until_open()
    except BaseException:
        await engine.aclose()
        raise
    return engine


def _for_workers(options: EngineOptions) -> EngineOptions:
    """The options as a worker reads them, whose current folder is another."""
    model = Path(options.model)
    return replace(
        options,
        model=str(model.absolute()) if model.exists() else options.model,
        adapter=options.adapter.absolute() if options.adapter else None,
        ray_address=None,
        ray_workers=None,
    )
