"""Rows of the table formats: csv, tsv, parquet, and a folder written by `datasets`, streamed."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_lines
from prompt_distillation.errors import InputError


def csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a .csv or .tsv file with a header line.

    Raises:
        InputError: as `read_lines`, or lines that are no CSV.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 fails with a message of no use
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a Parquet file, read in batches.

    Raises:
        InputError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error


def dataset_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(place for messages, row)`` of a folder written by ``save_to_disk``.

    Raises:
        InputError: not such a folder, or one of several splits.
    """
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path}: not a folder written by save_to_disk ({error})") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise InputError(
            f"{path} holds the splits {', '.join(dataset)}; name one of its folders, e.g. "
            f"{path / next(iter(dataset))}"
        )
    for number, row in enumerate(dataset):
        yield f"{path}, row {number}", row
