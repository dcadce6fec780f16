"""A process that has imported the heavy libraries once, and forks a child for each command.

Started by `launching.Launcher`; speaks JSON over the Unix socket it inherits. A request brings the
child's standard streams as file descriptors. In the child the command's script is run as
``__main__`` by `runpy`, as Python itself would. At its end threads are joined and exit functions
run; only the taking apart of all modules, seconds long with libraries like these, is left out.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

HEAVY = (
    "accelerate", "datasets", "jinja2", "matplotlib.pyplot", "openai", "orjson", "peft", "pyarrow",
    "pyarrow.parquet", "rich.console", "rich.logging", "rich.progress", "safetensors.torch",
    "scipy.stats", "sklearn.metrics", "tokenizers", "torch", "transformers",
    "transformers.trainer", "transformers.models.qwen3_moe.modeling_qwen3_moe", "trl",
    "trl.trainer.sft_trainer", "yaml",
)  # fmt: skip
MAX_MESSAGE_BYTES = 2**20


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a child a request until the launcher hangs up.

    Returns:
        In a child: what it is to run. In the host, at the end: None.
    """
    numbers: dict[int, int] = {}
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = selectors.DefaultSelector()
    waiting.register(connection, selectors.EVENT_READ)
    waiting.register(woken, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is woken:
                woken.recv(4096)
                _report_ended(connection, numbers)
                continue
            message, descriptors = _receive(connection)
            if not message:
                return None
            request = json.loads(message)
            pid = os.fork()
            if not pid:
                waiting.close()
                for end in (connection, wake, woken):
                    end.close()
                return {**request, "descriptors": descriptors}
            for descriptor in descriptors:
                os.close(descriptor)
            numbers[pid] = request["number"]
            _send(connection, {"number": request["number"], "pid": pid})


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    space = socket.CMSG_LEN(3 * descriptors.itemsize)
    message, ancillary, _, _ = connection.recvmsg(MAX_MESSAGE_BYTES, space)
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    return message, list(descriptors)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message).encode())


def _report_ended(connection: socket.socket, numbers: dict[int, int]) -> None:
    while numbers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        _send(connection, {"number": numbers.pop(pid), "code": code})


def become(request: dict[str, Any]) -> None:
    """Turn this child into the process that a shell would have started."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for target, descriptor in enumerate(request["descriptors"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.update(request["environment"])
    os.chdir(os.fsencode(request["folder"]))
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))


def run(command: list[str]) -> int:
    """Run a script or a module as Python's command line does; returns the exit code."""
    script, *flags = command
    try:
        if script == "-m":
            sys.argv = flags
            runpy.run_module(flags[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 (it is shown as the interpreter shows it)
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Import, say so, serve."""
    for name in HEAVY:
        importlib.import_module(name)
    connection = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page of the libraries
    _send(connection, {"ready": True})
    sys.path.pop(0)
    request = serve(connection)
    if request is None:
        return
    become(request)
    code = run(request["command"])
    # As multiprocessing ends a forked process.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
