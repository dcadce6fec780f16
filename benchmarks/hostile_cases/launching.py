"""Commands as processes: forked from a warm host, or started afresh, with the same interface."""

import array
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "create_data": (str(ROOT / "create_data.py"),),
    "train": (str(ROOT / "train_sft_trl.py"),),
    "evaluate": (str(ROOT / "evaluate.py"),),
    "compare": (str(ROOT / "scripts" / "compare.py"),),
    "report": (str(ROOT / "scripts" / "report.py"),),
    "review_labels": (str(ROOT / "scripts" / "review_labels.py"),),
    "export": (str(ROOT / "scripts" / "export_model.py"),),
    "cli": ("-m", "prompt_distillation"),
}

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT / "src"),
    "PYTHONUTF8": "1",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
}
"""What every command is given: nothing waits for a network, and it is this tree that runs."""


@dataclass
class Running:
    """A command that was started.

    Attributes:
        pid: of the process, which leads a process group of its own.
        code: its exit code, negative for a signal; None while it runs.
        out: what it has written to stdout so far.
        err: the same for stderr.
    """

    pid: int = 0
    code: int | None = None
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    ended: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    readers: list[threading.Thread] = field(default_factory=list)

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it is still there."""
        if not self.pid:
            return  # 0 would be this process's own group
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait for the end and all output; False if it has not come by then."""
        if not self.ended.wait(seconds):
            return False
        self.kill_group()
        for reader in self.readers:
            reader.join(10.0)
        return True

    def kill_group(self) -> None:
        """End the process and whatever it started."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait_for(self, condition: Any, seconds: float) -> bool:
        """Wait until ``condition()`` is true or the process has ended; returns the condition."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.ended.is_set():
            if condition():
                return True
            time.sleep(0.02)
        return bool(condition())

    def _end(self, code: int) -> None:
        self.code = code
        self.ended.set()

    def _read(self, descriptor: int, into: bytearray) -> None:
        def copy() -> None:
            with os.fdopen(descriptor, "rb", buffering=0) as pipe:
                while block := pipe.read(65_536):
                    into.extend(block)

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        self.readers.append(reader)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to start.

    Attributes:
        command: the script and its flags, or ``-m``, a module and its flags.
        folder: the current folder.
        environment: added to the process's own and to `ENVIRONMENT`.
        limits: names of `resource` limits and their values, e.g. ``RLIMIT_FSIZE``.
        standard_input: what it reads from stdin.
        terminal: whether stdin is a terminal, at which ``standard_input`` is typed.
    """

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    standard_input: bytes = b""
    terminal: bool = False


class Launcher:
    """Starts commands; safe to use from several threads. Use as a context manager."""

    def __enter__(self) -> "Launcher":
        """Start the host and wait until it is warm."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host = Path(__file__).with_name("forking_host.py")
        self._process = subprocess.Popen(
            [sys.executable, str(host), str(theirs.fileno())],
            env=os.environ | ENVIRONMENT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = ours
        self._running: dict[int, Running] = {}
        self._lock = threading.Lock()
        self._count = 0
        if not ours.recv(4096):
            raise RuntimeError("the host that forks commands did not start; see its output above")
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that still runs, then the host."""
        for running in list(self._running.values()):
            running.kill_group()
        self._connection.shutdown(socket.SHUT_WR)
        self._process.wait(30)
        self._listener.join(10)
        self._connection.close()

    def fork(self, order: Order) -> Running:
        """Start a command as a child of the warm host: a tenth of a second, not several."""
        running, ends = _with_pipes(order)
        with self._lock:
            self._count += 1
            self._running[self._count] = running
            request = {
                "number": self._count,
                "command": list(order.command),
                "folder": str(order.folder),
                "environment": dict(order.environment),
                "limits": dict(order.limits),
            }
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
            self._connection.sendmsg([json.dumps(request).encode()], rights)
        for end in ends:
            os.close(end)
        if not running.started.wait(60):
            raise RuntimeError(f"the host did not start {order.command[0]}")
        return running

    def _listen(self) -> None:
        while message := self._connection.recv(4096):
            news = json.loads(message)
            running = self._running[news["number"]]
            if "pid" in news:
                running.pid = news["pid"]
                running.started.set()
            else:
                del self._running[news["number"]]
                running._end(news["code"])


def start_afresh(order: Order) -> Running:
    """Start a command as a shell would: a new interpreter."""
    running, ends = _with_pipes(order)
    standard_input, standard_output, standard_error = ends
    process = subprocess.Popen(
        [sys.executable, *order.command],
        cwd=order.folder,
        env=os.environ | ENVIRONMENT | dict(order.environment),
        stdin=standard_input,
        stdout=standard_output,
        stderr=standard_error,
        start_new_session=True,
    )
    for end in ends:
        os.close(end)
    for name, value in order.limits.items():
        resource.prlimit(process.pid, getattr(resource, name), (value, value))
    running.pid = process.pid
    running.started.set()
    threading.Thread(target=lambda: running._end(process.wait()), daemon=True).start()
    return running


def _with_pipes(order: Order) -> tuple[Running, list[int]]:
    """A record of what will run, and its ends of the pipes: stdin, stdout, stderr."""
    running = Running()
    if order.terminal:
        stdin_write, stdin_read = os.openpty()
    else:
        stdin_read, stdin_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()

    def feed() -> None:
        with contextlib.suppress(OSError), os.fdopen(stdin_write, "wb") as pipe:
            pipe.write(order.standard_input)
            pipe.flush()
            if order.terminal:
                running.ended.wait()

    threading.Thread(target=feed, daemon=True).start()
    running._read(out_read, running.out)
    running._read(err_read, running.err)
    return running, [stdin_read, out_write, err_write]
