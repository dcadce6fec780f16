"""One writer at a time: a lock the system drops by itself when its holder dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from prompt_distillation.errors import OutputBusyError, OutputWriteError


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of ``path`` while the block runs; the file itself stays.

    Raises:
        OutputBusyError: another process holds it; the message says which, where and since when.
        OutputWriteError: the file cannot be written, or its file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputWriteError(f"cannot write {path}: {error.strerror}") from error
    try:
        _lock(descriptor, fcntl.LOCK_EX, path)
        _write_holder(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # drops the lock


def refuse_if_held(path: Path) -> None:
    """Raise `OutputBusyError` if a process holds the lock of ``path``; a missing file is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def is_lock(path: Path) -> bool:
    """Whether a file is a lock of ours, perhaps one that a full disk cut short."""
    return path.is_file() and b'{"pid": '.startswith(path.read_bytes()[:8])


def _lock(descriptor: int, kind: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputBusyError(_busy(path)) from error
    except OSError as error:  # Lustre, mounted without -o flock, answers ENOSYS
        raise OutputWriteError(
            f"cannot lock {path}: {error.strerror}; choose an output on a file system with locks "
            "(a local disk, or Lustre mounted with -o flock)"
        ) from error


def _write_holder(descriptor: int, path: Path) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        os.ftruncate(descriptor, 0)
        line = json.dumps(holder).encode() + b"\n"
        written = 0
        while written < len(line):  # an almost full disk takes a part
            written += os.pwrite(descriptor, line[written:], written)
    except OSError as error:
        with suppress(OSError):  # half a line would look like somebody's file
            os.ftruncate(descriptor, 0)
        raise OutputWriteError(
            f"cannot write {path}: {error.strerror}; free some space, then run the same command "
            "again"
        ) from error


def _busy(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        who = "another process"  # it has the lock and has not yet written its name
    return f"{path} is held by {who}; wait for it to end, stop it, or choose another output"
