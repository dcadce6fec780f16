"""Rows of the table formats: csv, tsv, parquet, and a folder written by `datasets`, streamed."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_lines
from prompt_distillation.errors import InputError


def csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a .csv or .tsv file with a header line.

    Raises:
        InputError: as `read_lines`, a header that names a field twice, a row with more fields than
            the header, or a quote that is not closed or does not enclose a whole field.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 fails with a message of no use
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    first = 1  # line of the row
    try:
        names = reader.fieldnames or []
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{path}, line 1: the header names {twice[0]!r} twice; rename one")
        first = reader.line_num + 1
        for row in reader:
            where = f"{path}, line {first}"
            _check_fields(row, names, delimiter=delimiter, where=where)
            yield where, row
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {first}: a quote that is not closed, or does not enclose a whole field "
            f"({error}); write a quote inside a text twice, and enclose that text in quotes"
        ) from error


def _check_fields(
    row: Mapping[Any, Any], names: Sequence[str], *, delimiter: str, where: str
) -> None:
    """Raise `InputError` where rows or fields ran together or apart."""
    if None in row:  # where csv.DictReader keeps what the header has no name for
        raise InputError(
            f"{where}: {len(names) + len(row[None])} fields, and the header has {len(names)}; "
            "enclose a text that holds the separator in quotes"
        )
    if delimiter == "\t":
        for value in row.values():
            if value and "\n" in value and "\t" in value:
                raise InputError(
                    f"{where}: a quoted text goes on over several lines and tabs: a stray quote "
                    "joins rows; write the quotes of a text twice, and enclose it in quotes"
                )


def parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a Parquet file, read in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except (pa.ArrowException, OSError) as error:  # the latter: cut off, or damaged inside
        raise InputError(f"{path}: not a Parquet file ({error})") from error


def dataset_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a folder written by ``save_to_disk``."""
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a folder written by save_to_disk ({error})") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise InputError(
            f"{path} holds the splits {', '.join(dataset)}; name one of its folders, e.g. "
            f"{path / next(iter(dataset))}"
        )
    for number, row in enumerate(dataset):
        yield f"{path}, row {number}", row
