"""The inputs of one run: a file that is read as often as needed, never held in memory."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prompt_distillation.data.dataset_files import Shard
from prompt_distillation.data.inputs import (
    Columns,
    Input,
    check_gold,
    read_inputs,
)
from prompt_distillation.data.splits import shard_of
from prompt_distillation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the inputs come from.

    Attributes:
        path: a file or folder that `read_inputs` takes.
        columns: names of the fields of its rows.
        max_samples: take only the first so many; None takes all.
    """

    path: Path
    columns: Columns = field(default_factory=Columns)
    max_samples: int | None = None

    def read(self) -> Iterator[Input]:
        """Stream the inputs, in order. Raises `InputError` as `read_inputs`."""
        return itertools.islice(read_inputs(self.path, columns=self.columns), self.max_samples)

    def read_shard(self, shard: Shard) -> Iterator[Input]:
        """Stream the inputs of one shard, in order."""
        if shard.count == 1:
            return self.read()
        return (
            item
            for item in self.read()
            if shard_of(item.text, num_shards=shard.count) == shard.index
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """What a first reading of the inputs found.

    Attributes:
        inputs: how many there are in the file.
        in_shard: how many of them are this shard's.
        sha256: of all texts, groups and gold labels, in order.
    """

    inputs: int
    in_shard: int
    sha256: str


def take_census(source: Source, task: Task, shard: Shard) -> Census:
    """Read every input once, so that a bad row is found before anything is paid for.

    Raises:
        InputError: as `read_inputs`.
        TaskError: a gold label that the task does not have.
    """
    digest = hashlib.sha256()
    inputs = in_shard = 0
    for item in check_gold(source.read(), task, where=source.path):
        inputs += 1
        digest.update(f"{item.text}\0{item.group}\0{item.gold}\0{item.history}\n".encode())
        if shard.count == 1 or shard_of(item.text, num_shards=shard.count) == shard.index:
            in_shard += 1
    return Census(inputs=inputs, in_shard=in_shard, sha256=digest.hexdigest())
