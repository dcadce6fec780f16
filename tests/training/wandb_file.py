"""Reads what the W&B client recorded offline: the `run-*.wandb` file of a run.

The file is a log of LevelDB's format (blocks of 32 KiB; a record in one piece, or in a first,
middle and last one) behind seven bytes of its own, and each record is a protobuf message. wandb
0.31 ships the messages and no reader in Python.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32 * 1024, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The messages, in order."""
    data = path.read_bytes()
    assert data.startswith(b":W&B"), "another file format"
    offset, parts = HEADER, b""
    while offset + HEADER <= len(data):
        left = BLOCK - offset % BLOCK
        if left < HEADER:
            offset += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, offset)
        if kind not in {WHOLE, FIRST, MIDDLE, LAST}:
            break
        piece = data[offset + HEADER : offset + HEADER + size]
        parts = piece if kind in {WHOLE, FIRST} else parts + piece
        offset += HEADER + size
        if kind in {WHOLE, LAST}:
            yield wandb_internal_pb2.Record.FromString(parts)


def history(path: Path) -> list[dict[str, Any]]:
    """What each `run.log` recorded."""
    return [_items(record.history.item) for record in records(path) if record.HasField("history")]


def summary(path: Path) -> dict[str, Any]:
    """The run's summary at its end."""
    merged: dict[str, Any] = {}
    for record in records(path):
        if record.HasField("summary"):
            merged |= _items(record.summary.update)
    return merged


def _items(items: Any) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in items
        if item.value_json
    }
