"""Results and comparisons as files: written whole, read back as the same records, never lost."""

import dataclasses
import functools
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from prompt_distillation.data.comparison import COMPARISON_FILE, Comparison
from prompt_distillation.data.files import (
    atomic_writer,
    dump_json,
    has_keys,
    read_json,
    refuse_unsafe_outputs,
)
from prompt_distillation.data.results import SCHEMA_VERSION, Result
from prompt_distillation.errors import ConfigError, InputError, OutputWriteError

Record = TypeVar("Record")


def check_output(path: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse, before hours of work, a place where a result cannot or must not be written.

    Raises:
        ConfigError: it is a folder, a device, a pipe, or one of the inputs.
        OutputExistsError: the file that is there is not a result.
        OutputWriteError: the folder cannot be made.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"--output_file {path} is not a file; name one, e.g. results.json")
    refuse_unsafe_outputs([path], inputs, is_ours=is_result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputWriteError(f"cannot make the folder {path.parent}: {error.strerror}") from error


def is_result(path: Path) -> bool:
    """Whether a file is one that `write_result` wrote."""
    return has_keys(path, "schema_version", "predictions")


def check_comparison_folder(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Refuse, before hours of work, a folder where a comparison must not be written.

    Raises:
        ConfigError: the folder is an input, contains one or lies inside one.
        OutputExistsError: it holds files, and none says that a comparison has written them.
    """

    def is_ours(path: Path) -> bool:
        if path.is_file():
            return is_result(path)
        entries = list(path.iterdir()) if path.is_dir() else []
        return is_comparison(path) or all(one.is_file() and is_result(one) for one in entries)

    results = [folder / name for name in names] if folder.is_dir() else []
    refuse_unsafe_outputs([folder, *results], inputs, is_ours=is_ours)


def is_comparison(folder: Path) -> bool:
    """Whether a folder is one that a comparison has written."""
    return has_keys(folder / COMPARISON_FILE, "cells", "bill")


def write_result(path: Path, result: Result) -> Path | None:
    """Write ``result`` atomically, keeping what stood there under a number.

    Returns:
        Where the previous file is now (``NAME.1.json``, or the next free number); None if there
        was none.

    Raises:
        OutputWriteError: it could not be written; the previous file is where it was.
    """
    aside: Path | None = None
    with atomic_writer(path) as file:
        file.write(dump_json(result, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())  # a full disk shows here, before the old file is moved
        if path.exists():
            aside = _free_name(path)
            path.rename(aside)
    return aside


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


def read_result(path: Path) -> Result:
    """Read a result that `write_result` wrote."""
    value = read_json(path)
    if value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: not a result of evaluate.py (schema_version is "
            f"{value.get('schema_version')!r}, expected {SCHEMA_VERSION}); evaluate again"
        )
    return read_written(path, Result, by="evaluate.py")


def read_comparison(path: Path) -> Comparison:
    """Read a ``comparison.json``."""
    return read_written(path, Comparison, by="compare.py")


def read_written(path: Path, kind: type[Record], *, by: str) -> Record:
    """Read the JSON document of a record.

    Raises:
        InputError: no such file, or not one that ``by`` wrote.
    """
    value = read_json(path)
    try:
        return cast(Record, build_record(value, kind))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a result of {by} ({error!r}); run that again") from error


@functools.cache
def _fields(record: type) -> dict[str, tuple[Any, bool]]:
    """Name -> type, and whether it has a default; cached: there are as many records as inputs."""
    hints = get_type_hints(record)
    return {
        field.name: (hints[field.name], field.default is not dataclasses.MISSING)
        for field in dataclasses.fields(record)
    }


def build_record(value: Any, hint: Any) -> Any:
    """Turn JSON into the records that ``hint`` describes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = [part for part in arguments if part is not types.NoneType]
        return build_record(value, hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        # A field that a file of an earlier version lacks takes its default, where it has one.
        return hint(
            **{
                name: build_record(value[name], kind)
                for name, (kind, is_optional) in _fields(hint).items()
                if name in value or not is_optional
            }
        )
    if origin is tuple:
        return tuple(build_record(item, arguments[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: build_record(item, arguments[1]) for key, item in value.items()}
    return value
