"""Files, written whole or not at all: atomic replacement, JSON lines, refusal to overwrite."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal

from prompt_distillation.errors import (
    ConfigError,
    InputError,
    OutputExistsError,
    OutputWriteError,
    PromptDistillationError,
)

_HEAD_BYTES = 4096

DatasetPart = Literal["heldout", "records", "rejects", "manifest", "corrections", "logprobs"]

_ENDINGS = {"manifest": ".json", "logprobs": ".parquet"}


def without_link(dataset: Path) -> Path:
    """The file that a dataset's link leads to, in whose folder its other parts stand.

    A link that leads nowhere is a leftover, and stays what it is: a place to write to.
    """
    return dataset.resolve() if dataset.is_symlink() and dataset.exists() else dataset


def sibling(dataset: Path, part: DatasetPart) -> Path:
    """Where a part of the dataset ``NAME.jsonl`` stands: ``NAME.heldout.jsonl`` and its like.

    Beside the dataset itself, also where ``dataset`` is a link to it. The manifest is one JSON
    document, ``NAME.manifest.json``, the log-probabilities are a table, ``NAME.logprobs.parquet``;
    the other parts are JSON lines.
    """
    dataset = without_link(dataset)
    return dataset.with_name(f"{dataset.stem}.{part}{_ENDINGS.get(part, '.jsonl')}")


def refuse_to_overwrite(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raise `OutputExistsError` if one of ``paths`` exists and ``overwrite`` is false."""
    if overwrite:
        return
    for path in paths:
        if path.exists():
            raise OutputExistsError(
                f"{path} already exists; pass --overwrite to replace it, or choose another output"
            )


def refuse_unsafe_outputs(
    outputs: Iterable[Path], inputs: Iterable[Path | None], *, is_ours: Callable[[Path], bool]
) -> None:
    """See that writing ``outputs`` destroys nothing; call it before anything is started.

    Being asked to overwrite changes nothing here: that is for what an earlier run wrote.

    Args:
        outputs: every file and folder that will be written or replaced.
        inputs: every file and folder that is read; None stands for one that was not named.
        is_ours: whether an output that is there was written by this command. It is asked only
            about files and folders that are not empty.

    Raises:
        ConfigError: an output is an input, contains one or lies inside one, through links too.
        OutputExistsError: an output is there and is not ours.
    """
    read = [path for path in inputs if path is not None]
    for output in outputs:
        try:
            source = next((path for path in read if _overlap(output, path)), None)
            taken = source is None and has_content(output)
        except (OSError, RuntimeError) as error:  # no permission; RuntimeError: links in a circle
            raise ConfigError(f"cannot use {output} as an output: {error}") from error
        if source is not None:
            raise ConfigError(
                f"the output {output} would overwrite the input {source}; choose another output"
            )
        if taken and not is_ours(output):
            raise OutputExistsError(
                f"{output} is there already and was not written by this command, so it is not "
                "replaced, with or without --overwrite; move it away or choose another output"
            )


def _overlap(output: Path, source: Path) -> bool:
    if output.exists() and source.exists() and output.samefile(source):
        return True  # a hard link
    output, source = output.resolve(), source.resolve()
    return output.is_relative_to(source) or source.is_relative_to(output)


def has_content(path: Path) -> bool:
    """Whether a path is there, and not an empty file or folder."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def begins_with(path: Path, mark: bytes) -> bool:
    """Whether ``mark`` stands in the first 4 KiB of a file: how our own outputs are recognised."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(_HEAD_BYTES)


@contextmanager
def atomic_writer(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its name only when the block succeeds.

    The mode ``w`` is for text in UTF-8, ``wb`` for bytes.

    Raises:
        OutputWriteError: the folder cannot be written, or the disk is full. The file that was at
            ``path`` before is still there, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding, newline = ("utf-8", "\n") if mode == "w" else (None, None)
        with temporary.open(mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _unlink_if_there(temporary)
        if isinstance(error, PromptDistillationError):
            raise  # some of ours are OSErrors too: the block complained of something else
        raise OutputWriteError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "place, then run the same command again"
        ) from error
    except BaseException:
        _unlink_if_there(temporary)
        raise


def _unlink_if_there(path: Path) -> None:
    """Remove a file; not being able to must not hide why it has to go."""
    with suppress(OSError):
        path.unlink()


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as we write it: UTF-8 as it is, no NaN, which other readers refuse; dataclasses too."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, default=dataclasses.asdict
    )


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON document atomically."""
    with atomic_writer(path) as file:
        file.write(dump_json(value, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, atomically; returns how many."""
    count = 0
    with atomic_writer(path) as file:
        for row in rows:
            file.write(dump_json(row) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, line without its end)`` of a UTF-8 text file, streamed.

    Only line feeds end a line: U+2028 and its like stay inside it. A byte-order mark is dropped.

    Raises:
        InputError: no such file, a folder, one that may not be read, bytes that are not UTF-8
            (the line is named), or a file that is compressed, UTF-16, or has other line ends.
    """
    if not path.is_file():
        raise InputError(
            f"no such file: {path}; check the path (the current folder is {Path.cwd()})"
        )
    with _open_bytes(path) as file:
        _refuse_other_encodings(path, file.peek(_HEAD_BYTES)[:_HEAD_BYTES])
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); "
                    "convert it first, e.g. `iconv -f LATIN1 -t UTF-8`"
                ) from error
            yield number, line.rstrip("\r\n")


_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"BZh": ("bzip2", "bunzip2 -k"),
    b"\xfd7zXZ": ("xz", "unxz -k"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""What a compressed file begins with -> the format, and the program that unpacks it."""


def _refuse_other_encodings(path: Path, head: bytes) -> None:
    """Raise `InputError` with the right hint for a file that is not lines of UTF-8."""
    for magic, (kind, program) in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(f"{path}: compressed with {kind}; unpack it first, e.g. `{program}`")
    at_even, at_odd = head[::2].count(0), head[1::2].count(0)
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    if marked or at_even or at_odd:
        # Every second byte of Latin letters in UTF-16 is NUL, and no other.
        few, many = sorted((at_even, at_odd))
        if not marked and (many * 4 < len(head) or few * 4 > many):
            raise InputError(f"{path}: binary (it holds NUL bytes), not a text file")
        order = "LE" if head.startswith(b"\xff\xfe") or at_odd > at_even else "BE"
        raise InputError(
            f"{path}: UTF-16, not UTF-8; convert it first, e.g. `iconv -f UTF-16{order} -t UTF-8`"
        )
    if b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        raise InputError(
            f"{path}: its lines end in a carriage return alone; convert it first, e.g. "
            "`tr '\\r' '\\n'`"
        )


def _open_bytes(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number from 1, object)`` of a JSON-lines file; blank lines are skipped."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also an enormous number, or many brackets
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(f"{path}, line {number}: not JSON ({reason})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, got {line[:60]!r}")
        yield number, row


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with _open_bytes(path) as file:
            value = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def has_keys(path: Path, *names: str) -> bool:
    """Whether a file is a JSON object with these keys: how our own results are recognised."""
    try:
        return set(names) <= read_json(path).keys()
    except InputError:
        return False
