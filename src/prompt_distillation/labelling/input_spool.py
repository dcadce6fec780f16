"""The inputs of one run, read and checked once, then streamed as often as needed.

A file of inputs is parsed, checked and hashed in one pass, before anything is paid for. What later
steps need of each input (its key, its side of the split) is spooled: kept in memory while it is
small, then in a temporary file without a name.
"""

import hashlib
import itertools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import Shard
from prompt_distillation.data.inputs import Input, check_gold, read_inputs
from prompt_distillation.data.splits import input_key, is_held_out, shard_of
from prompt_distillation.errors import InputError, OutputWriteError
from prompt_distillation.tasks import Task

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 16 << 20

COUNTED_GROUPS = 1000
"""Groups are counted up to here: with more of them, neither side of a split comes out empty."""


class Spool:
    """Rows of JSON, appended and read again. Closed, they are gone.

    Args:
        folder: where they go once they are too large for memory; None takes the system's folder
            for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed with the spool
            max_size=IN_MEMORY_BYTES, dir=str(folder) if folder else None
        )
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: object) -> int:
        """Append a row and return its place."""
        place, line = self._size, orjson.dumps(row) + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise OutputWriteError(
                f"cannot write a temporary file: {error.strerror or error}; free some space (or "
                "set TMPDIR to a folder with more), then run the same command again"
            ) from error
        self._size += len(line)
        return place

    def read(self, place: int) -> Any:
        """The row at ``place``; after the first one is read, nothing is appended any more."""
        self._file.seek(place)
        return orjson.loads(self._file.readline())

    def __iter__(self) -> Iterator[Any]:
        """All rows, in order; one iteration at a time."""
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)


class WorkItem(NamedTuple):
    """One input, and what follows from it.

    Attributes:
        key: inputs with equal keys are labelled once.
        shard: which process labels it.
    """

    input: Input
    key: bytes
    shard: int
    held_out: bool


class InputSpool(Spool):
    """The checked inputs, and their statistics. Use `read_inputs_once`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.in_shard = self.held_out = self.groups = 0
        self.sha256 = ""

    def __iter__(self) -> Iterator[WorkItem]:
        """All inputs in the order of the file; one iteration at a time."""
        for index, text, group, gold, history, key, shard, held_out in super().__iter__():
            item = Input(index=index, text=text, group=group, gold=gold, history=tuple(history))
            yield WorkItem(item, bytes.fromhex(key), shard, held_out)

    def of_shard(self, shard: Shard) -> Iterator[WorkItem]:
        """The inputs that the process of ``shard`` labels."""
        return (item for item in self if item.shard == shard.index)

    def sample(self, wanted: int) -> list[WorkItem]:
        """At most ``wanted`` inputs, evenly spaced, in order."""
        wanted = min(wanted, self.count)
        chosen = {number * self.count // wanted for number in range(wanted)}
        return [item for position, item in enumerate(self) if position in chosen]

    def fill(self, config: LabelConfig, task: Task, *, settings: str) -> None:
        """Read, check and spool the inputs; see `read_inputs_once`."""
        digest = hashlib.sha256()
        groups: set[str] = set()
        rows = read_inputs(config.input_file, fields=config.inputs)
        source = itertools.islice(rows, config.inputs.max_samples)
        for item in check_gold(source, task, where=config.input_file):
            digest.update(f"{item.text}\0{item.group}\0{item.gold}\0{item.history}\n".encode())
            key = input_key(
                item.text, item.history, duplicates=config.duplicates, settings=settings
            )
            shard = 0
            if config.num_shards > 1:
                shard = shard_of(item.text, num_shards=config.num_shards)
            held_out = is_held_out(item.group, share=config.held_out, seed=config.sampling.seed)
            row = (item.index, item.text, item.group, item.gold, item.history, key.hex(), shard)
            self.append((*row, held_out))
            self.count += 1
            self.in_shard += shard == config.shard_index
            self.held_out += held_out
            if len(groups) < COUNTED_GROUPS:
                groups.add(item.group)
        self.groups = len(groups)
        self.sha256 = digest.hexdigest()


@contextmanager
def read_inputs_once(config: LabelConfig, task: Task, *, settings: str) -> Iterator[InputSpool]:
    """Read the input file, so that a bad row is found before anything is paid for."""
    with InputSpool() as inputs:
        inputs.fill(config, task, settings=settings)
        _refuse_one_sided(config, inputs)
        yield inputs


def _refuse_one_sided(config: LabelConfig, inputs: InputSpool) -> None:
    """See that the split leaves something to train on, and warn if it leaves nothing to test on."""
    which = f"--held_out {config.held_out:g}, --seed {config.sampling.seed}"
    if inputs.held_out == inputs.count:
        raise InputError(
            f"all {inputs.count} inputs of {config.input_file} are held out ({which}; they are "
            f"{inputs.groups} groups, and a split never cuts a group), so nothing is left to train "
            "on; add inputs from more groups, or pass --held_out 0"
        )
    if inputs.held_out == 0 and config.held_out:
        logger.warning(
            "none of the %d groups of inputs is held out at --held_out %g, so nothing is left to "
            "evaluate on; add inputs from more groups, or label with a larger --held_out",
            inputs.groups,
            config.held_out,
        )
