"""A Ray cluster: joining or starting it, what room it has for engines, and what runs on it."""

import asyncio
import importlib.util
import logging
import math
import os
import platform
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import Completion, Engine, EngineOptions, Request
from prompt_distillation.engines.opening import open_engine
from prompt_distillation.errors import EngineError, ModelError
from prompt_distillation.machine import memory_bytes, share_cores

logger = logging.getLogger(__name__)

CLIENT_SCHEME = "ray://"
DEFAULT_PORT = 6379
CONNECT_SECONDS = 10.0

# Of a cluster that is started here: requests and completions are far smaller than what Ray puts
# into its store of shared memory, whose default is a third of the machine's.
STORE_BYTES = 100 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine of the cluster, with what Ray counts of it."""

    node_id: str
    cpus: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one worker takes.

    Attributes:
        node_id: the machine it should run on; None leaves that to Ray.
        share: which share of the machine's cores is its own, from 0.
        shares: into how many they are cut.
    """

    cpus: int
    gpus: int = 0
    node_id: str | None = None
    share: int = 0
    shares: int = 1


def plan_workers(
    machines: Sequence[Machine], options: EngineOptions, *, workers: int | None
) -> list[Placement]:
    """Say what each worker takes: GPUs by tensor parallel size, or an even share of the cores.

    Without ``workers``, the GPUs are filled, or each machine gets one where there are none.
    """
    size = options.tensor_parallel_size
    largest = max((machine.gpus for machine in machines), default=0)
    if options.device == "cuda" or (options.device == "auto" and largest):
        if largest < size:
            raise EngineError(
                f"--tensor_parallel_size is {size}, but no machine of the Ray cluster has more "
                f"than {largest} GPU(s); pass at most that"
            )
        room = sum(machine.gpus // size for machine in machines)
        _tell_of_missing_room(workers, room)
        return [Placement(cpus=1, gpus=size)] * (workers or room)
    machines = [machine for machine in machines if machine.cpus]
    if not machines:
        raise EngineError("the Ray cluster has neither GPUs nor CPUs to run an engine on")
    count = workers or len(machines)
    shares = math.ceil(count / len(machines))
    _tell_of_missing_room(workers, sum(machine.cpus for machine in machines))
    return [
        Placement(
            cpus=max(1, machine.cpus // shares),
            node_id=machine.node_id,
            share=number // len(machines),
            shares=shares,
        )
        for number, machine in ((n, machines[n % len(machines)]) for n in range(count))
    ]


def _tell_of_missing_room(workers: int | None, room: int) -> None:
    if workers is not None and workers > room:
        logger.warning(
            "--ray_workers is %d and the Ray cluster has room for %d: the others start when there "
            "is more", workers, room,
        )  # fmt: skip


def import_ray() -> Any:
    """Import Ray with its usage statistics switched off."""
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            "--ray_address was given, but Ray is not installed here; run `pip install -e '.[ray]'` "
            "on every machine, or leave the flag out to label on this machine alone"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


@asynccontextmanager
async def joined_cluster(address: str) -> AsyncIterator[list[Machine]]:
    """Join the cluster at ``address`` (or start one) and yield its machines; leave it afterwards.

    A cluster that this process had joined already is used as it is, and not left.

    Args:
        address: ``auto`` (one that runs on this machine), ``local`` (start one here, and stop it
            afterwards), ``HOST`` or ``HOST:PORT`` (this machine is part of that cluster), or
            ``ray://HOST:PORT`` (it is not).
    """
    ray = import_ray()
    if ray.is_initialized():
        yield _machines(ray)
        return
    if address not in ("auto", "local"):
        address = await _reachable(address)
    try:
        # In a thread, Ray leaves Python's handlers of signals alone, and the loop free.
        await asyncio.to_thread(_connect, ray, address)
        _take_back_sigterm()
        yield _machines(ray)
    finally:
        await asyncio.to_thread(ray.shutdown)


def _connect(ray: Any, address: str) -> None:
    started_here = {
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
    }
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            # Ray repeats in colour what its workers write, and much of its own.
            log_to_driver=logger.isEnabledFor(logging.DEBUG),
            **(started_here if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"no Ray cluster at --ray_address {address}: {reason[:300]}; start one with `ray start "
            "--head` (one that wants a token: set RAY_AUTH_MODE=token here too), or pass "
            "--ray_address local to use this machine alone"
        ) from error


def _take_back_sigterm() -> None:
    """Install Python's handler again: Ray's core puts one below it that aborts the process."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


async def _reachable(address: str) -> str:
    """``address`` with its port, once somebody listens there: Ray itself would try for minutes."""
    scheme = CLIENT_SCHEME if address.startswith(CLIENT_SCHEME) else ""
    host, _, port = address.removeprefix(CLIENT_SCHEME).partition(":")
    port = port or (str(DEFAULT_PORT) if not scheme else "10001")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise EngineError(
            f"--ray_address is {address!r}; allowed are auto, local, HOST:PORT and ray://HOST:PORT"
        )
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
        reason = str(error) or f"no answer within {CONNECT_SECONDS:.0f} s"
        raise EngineError(
            f"no Ray cluster at --ray_address {address}: {reason}; check that `ray start --head` "
            "runs there and that this machine may reach it, or pass --ray_address local"
        ) from error
    writer.close()
    return f"{scheme}{host}:{port}"


def _machines(ray: Any) -> list[Machine]:
    return [
        Machine(
            node_id=node["NodeID"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


class OpenedEngine(NamedTuple):
    """What a worker reports about the engine that it opened."""

    name: str
    concurrency: int


class EngineWorker:
    """What runs as a Ray actor: opens an engine and completes many requests at once.

    Errors that a user can fix are returned, not raised: Ray would wrap a raised one, with a
    traceback as its message.
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
    """Restrict this worker to its share of the machine's cores and of vLLM's memory."""
    cores = share_cores(shares).split("|")[share]
    if not cores:  # fewer cores than workers: they have to share
        return
    # vLLM's processes inherit it, and are cut into shares within it (`vllm_start`).
    os.sched_setaffinity(0, map(int, cores.split(",")))
    gib = memory_bytes() // (8 << 30) // shares
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, gib))))
