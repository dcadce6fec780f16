"""The near end of a worker on Ray: starts it, asks it, and tells its death from its answers."""

import asyncio
import logging
import re
from typing import Any

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    Request,
    RequestFailedError,
)
from prompt_distillation.engines.ray_cluster import Placement, import_ray
from prompt_distillation.engines.ray_worker import EngineWorker, OpenedEngine
from prompt_distillation.errors import EngineError

logger = logging.getLogger(__name__)

# vLLM takes up to 20 s to stop in order.
CLOSE_SECONDS = 30.0
# Ray's own limit of calls in flight; what bounds them here is the engine's concurrency.
CALLS_AT_ONCE = 10_000


class WorkerDiedError(Exception):
    """A worker is gone, or its engine is; the message says why."""


class RayActor:
    """One `EngineWorker` on a cluster.

    Args:
        placement: what it takes; it starts when the cluster has that to give.
    """

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
        """Its machine and process; returns when Ray has found room for it and started it.

        Raises:
            WorkerDiedError: it died.
            EngineError: no worker can start on that machine.
        """
        where: str = await self._answer(self._actor.where.remote())
        return where

    async def open(self, kind: EngineKind, options: EngineOptions) -> OpenedEngine:
        """Load the model there.

        Raises:
            WorkerDiedError: it died.
            EngineError, ModelError: what its engine raised.
        """
        outcome = await self._answer(self._actor.open.remote(kind, options))
        if not isinstance(outcome, OpenedEngine):
            raise outcome
        self._is_open = True
        return outcome

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation there.

        Raises:
            RequestFailedError: its engine says so.
            WorkerDiedError: it, or its engine, is gone.
        """
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
            f"a machine of the Ray cluster lacks the module {module.split()[0]}: install this "
            "package there, as it is installed here"
        ) from error
    cause = re.search(r"The actor (?:is dead|died) because (.*)", text)
    return (cause[1] if cause else text)[:200]
