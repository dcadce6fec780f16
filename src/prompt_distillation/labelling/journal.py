"""Every completion that was paid for, on disk before it is counted.

A journal is JSON lines, only ever appended to. A line is one completion (or one failed request),
written by one call to the system, so that a process killed at any moment leaves at most its last
line torn; the next run cuts that off. A line ``{"settings": ...}`` says under which settings the
completions after it were made.
"""

import hashlib
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import orjson

from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.data.splits import KEY_BYTES
from prompt_distillation.engines.base import Completion, FinishReason
from prompt_distillation.errors import OutputWriteError

logger = logging.getLogger(__name__)

# A record's place is one number: which journal in the high bits, the byte offset in the low ones.
_OFFSET_BITS = 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request and what came of it: either ``completion`` or ``error`` is set.

    Attributes:
        vote: which of an input's votes, from 0; ``attempt`` is which of that vote's attempts.
        refused: whether the engine would not take the request, and never will.
    """

    vote: int
    attempt: int
    temperature: float
    max_tokens: int
    completion: Completion | None = None
    error: str | None = None
    refused: bool = False


_COMPLETION = tuple(field.name for field in fields(Completion) if field.name != "logprobs")
_PLAIN = ("vote", "attempt", "temperature", "max_tokens", "error", "refused")


def _row_of(key: bytes, attempt: Attempt) -> dict[str, Any]:
    """A record as the journal holds it; what is not set is left out."""
    row: dict[str, Any] = {"key": key.hex()}
    for names, source in ((_PLAIN, attempt), (_COMPLETION, attempt.completion)):
        for name in names if source is not None else ():
            value = getattr(source, name)
            if value is not None and value is not False:
                row[name] = value
    if attempt.completion is not None and attempt.completion.logprobs is not None:
        row["logprobs"] = attempt.completion.logprobs.as_row()
    return row


def _attempt_of(row: Mapping[str, Any]) -> Attempt:
    completion = None
    if "error" not in row:
        scores = AnswerLogprobs.from_row(row["logprobs"]) if "logprobs" in row else None
        completion = Completion(
            **{name: row[name] for name in _COMPLETION if name in row}, logprobs=scores
        )
    return Attempt(completion=completion, **{name: row[name] for name in _PLAIN if name in row})


def digest_of(identity: Mapping[str, object]) -> str:
    """Hexadecimal SHA-256 of the settings that shape a completion."""
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Journal:
    """The journals of one dataset: all are read, one (at most) is written.

    Memory: about 200 bytes a key. Use `open_journal`.

    Args:
        identity: the settings whose completions are wanted.
        top_logprobs: alternatives of each token of an answer that they must hold; completions
            with fewer are passed over.
    """

    def __init__(self, identity: Mapping[str, object], *, top_logprobs: int = 0) -> None:
        self._identity = identity
        self._top_logprobs = top_logprobs
        self._without_logprobs = 0
        self._digest = digest_of(identity)
        self._places: dict[bytes, tuple[int, ...]] = {}
        self._offsets = array("Q")
        self._lengths = array("I")
        self._readers: list[int] = []
        self._writer: int | None = None
        self._path = Path()
        self._size = 0
        self._told_settings = False
        self._other_settings: Counter[str] = Counter()
        self._identities: dict[str, dict[str, object]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        """How many completions (and failures) of the current settings there are."""
        return len(self._offsets)

    def attempts(self, key: bytes) -> list[Attempt]:
        """What is recorded of ``key``, in the order of recording."""
        return [self._read(place) for place in self._places.get(key, ())]

    def append(self, key: bytes, attempt: Attempt) -> None:
        """Write one record through to the system."""
        if not self._told_settings:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._write({"settings": self._digest, "identity": self._identity, "time": now})
            self._told_settings = True
        offset = self._size
        length = self._write(_row_of(key, attempt))
        self._remember(key, len(self._readers) - 1, offset, length)

    def sync(self) -> None:
        """Wait until what was written is on the disk itself."""
        if self._writer is not None:
            try:
                os.fsync(self._writer)
            except OSError as error:
                raise self._write_error(error) from error

    def earlier_settings(self) -> list[tuple[dict[str, object], int]]:
        """Other settings the journals hold completions of: ``(identity, how many)``."""
        return [(self._identities[digest], n) for digest, n in self._other_settings.items()]

    def load(self, path: Path, *, with_failures: bool) -> None:
        """Index a journal to read from; a torn last line is passed over."""
        with path.open("rb") as file:
            self._readers.append(os.dup(file.fileno()))
            self._index(file, path, with_failures=with_failures)

    def load_for_writing(self, path: Path) -> None:
        """Index a journal, cut off its torn last line if it has one, and append to it from now."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._readers.append(os.dup(self._writer))
            with path.open("rb") as file:
                self._size, last_settings = self._index(file, path, with_failures=False)
            os.ftruncate(self._writer, self._size)
        except OSError as error:
            raise self._write_error(error) from error
        self._told_settings = last_settings == self._digest

    def close(self) -> None:
        """Close the files. Idempotent."""
        for descriptor in self._readers:
            os.close(descriptor)
        self._readers.clear()
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def _index(self, lines: Any, path: Path, *, with_failures: bool) -> tuple[int, str | None]:
        """Index a file's records; returns its size without a torn last line, and its settings."""
        offset, bad, settings = 0, 0, None
        source = len(self._readers) - 1
        for line in lines:
            if not line.endswith(b"\n"):
                logger.warning("%s: cut off a torn last line of %d bytes", path, len(line))
                break
            row = _parse(line)
            if row is None:
                bad += 1
                settings = None  # the line may have named new ones; each key names its own anyway
            elif "key" not in row:
                settings = str(row["settings"])
                self._identities[settings] = row["identity"]
            elif settings is not None and settings != self._digest:
                self._other_settings[settings] += 1
            elif "error" not in row and row.get("logprobs", _NONE)["top"] < self._top_logprobs:
                self._without_logprobs += 1
            elif with_failures or "error" not in row:
                self._remember(bytes.fromhex(row["key"]), source, offset, len(line))
            offset += len(line)
        if self._without_logprobs:
            logger.warning(
                "%s: %d completions have no log-probabilities for --top_logprobs %d; their inputs "
                "are labelled again", path, self._without_logprobs, self._top_logprobs,
            )  # fmt: skip
            self._without_logprobs = 0
        if bad:
            logger.warning("%s: passed over %d damaged lines; their work is done again", path, bad)
        return offset, settings

    def _remember(self, key: bytes, source: int, offset: int, length: int) -> None:
        place = len(self._offsets)
        self._offsets.append(source << _OFFSET_BITS | offset)
        self._lengths.append(length)
        self._places[key] = (*self._places.get(key, ()), place)

    def _read(self, place: int) -> Attempt:
        code, length = self._offsets[place], self._lengths[place]
        offset = code & ((1 << _OFFSET_BITS) - 1)
        line = os.pread(self._readers[code >> _OFFSET_BITS], length, offset)
        return _attempt_of(orjson.loads(line))

    def _write(self, row: Mapping[str, Any]) -> int:
        """Append one line, whole or not at all; returns its length."""
        assert self._writer is not None, "this journal was opened for reading"
        line = orjson.dumps(row) + b"\n"
        written = 0
        try:
            while written < len(line):
                written += os.write(self._writer, line[written:])
        except OSError as error:
            with suppress(OSError):  # the next run cuts a torn line off as well
                os.ftruncate(self._writer, self._size)
            raise self._write_error(error) from error
        self._size += written
        return written

    def _write_error(self, error: OSError) -> OutputWriteError:
        return OutputWriteError(
            f"cannot write {self._path}: {error.strerror or error}; what it holds is safe: free "
            "some space, then run the same command again"
        )


@contextmanager
def open_journal(
    identity: Mapping[str, object],
    *,
    writable: Path | None,
    others: Sequence[Path],
    top_logprobs: int = 0,
) -> Iterator[Journal]:
    """Open the journals of a dataset.

    ``writable`` is appended to, ``others`` are only read. With a journal to write, requests that
    failed in earlier runs are left out, to be made again; without one they are taken as they are.
    """
    journal = Journal(identity, top_logprobs=top_logprobs)
    try:
        for path in others:
            journal.load(path, with_failures=writable is None)
        if writable is not None:
            journal.load_for_writing(writable)
        yield journal
        journal.sync()
    finally:
        journal.close()


def is_journal(path: Path) -> bool:
    """Whether a file is a journal, damaged perhaps, and not somebody's file of the same name."""
    with path.open("rb") as file:
        for line in file:
            if _parse(line) is not None or not line.strip(b"\0\n"):  # NULs: of a power cut
                return True
            if not line.endswith(b"\n"):  # killed while the first line was written
                return b'{"settings":"'.startswith(line[:13])
    return False


_FINISH_REASONS = get_args(FinishReason)

_Kinds = dict[str, type | tuple[type, ...]]

_FAILURE_KINDS: _Kinds = {
    "vote": int,
    "attempt": int,
    "temperature": (int, float),
    "max_tokens": int,
}
_COMPLETION_KINDS: _Kinds = _FAILURE_KINDS | {
    "text": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "completion_tokens": int,
    "seconds": (int, float),
}
_OPTIONAL_KINDS: _Kinds = {
    "cached_tokens": int,
    "first_token_seconds": (int, float),
    "reasoning": str,
    "error": str,
    "refused": bool,
    "repaired": bool,
    "logprobs": dict,
}

_NONE = {"top": 0}


def _parse(line: bytes) -> dict[str, Any] | None:
    """A row of ours; None for a line that is damaged, or JSON of something else."""
    try:
        row = orjson.loads(line)
        if not isinstance(row, dict):
            return None
        if "key" not in row:
            return row if digest_of(row["identity"]) == row["settings"] else None
        if len(bytes.fromhex(row["key"])) != KEY_BYTES:
            return None
        if "logprobs" in row:
            AnswerLogprobs.from_row(row["logprobs"])
    except (ValueError, TypeError, KeyError):
        return None
    kinds = _FAILURE_KINDS if "error" in row else _COMPLETION_KINDS
    is_ours = all(isinstance(row.get(name), kind) for name, kind in kinds.items()) and all(
        isinstance(row[name], kind) for name, kind in _OPTIONAL_KINDS.items() if name in row
    )
    return row if is_ours and row.get("finish_reason", "stop") in _FINISH_REASONS else None
