"""What labelling writes, and where: every file's name follows from the dataset's."""

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.data.files import sibling, without_link
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One part of the inputs, labelled by one process.

    Attributes:
        index: from 0.
        count: 1 where one process labels everything.
    """

    index: int = 0
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPaths:
    """The files of one dataset.

    Attributes:
        dataset: chat rows to train on, ``NAME.jsonl``.
        heldout: chat rows of the groups kept out of training.
        records: all that is known about each input, one row an input.
        rejects: the inputs that got no label, and why.
        manifest: task, model, settings, counts and versions.
        corrections: what a person corrected; read, never written, by labelling.
    """

    dataset: Path
    heldout: Path
    records: Path
    rejects: Path
    manifest: Path
    corrections: Path

    def journal(self, shard: Shard) -> Path:
        """The journal of the process that labels ``shard``."""
        stem = self.dataset.stem
        if shard.count == 1:
            return self.dataset.with_name(f"{stem}.journal.jsonl")
        return self.dataset.with_name(f"{stem}.journal.{shard.index}-of-{shard.count}.jsonl")

    def shards(self) -> list[Shard]:
        """The shards whose journals exist, however often the work was cut anew."""
        name = re.compile(rf"{re.escape(self.dataset.stem)}\.journal(?:\.(\d+)-of-(\d+))?\.jsonl")
        if not self.dataset.parent.is_dir():
            return []
        found = (name.fullmatch(path.name) for path in self.dataset.parent.iterdir())
        numbers = sorted((int(m[2] or 1), int(m[1] or 0)) for m in found if m)
        return [Shard(index=index, count=count) for count, index in numbers]

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of a run that was killed; only its successor may."""
        for path in (self.dataset, self.heldout, self.records, self.rejects, self.manifest):
            for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
                leftover.unlink(missing_ok=True)

    def lock(self, shard: Shard) -> Path:
        """The file whose lock the process that labels ``shard`` holds."""
        return self.journal(shard).with_suffix(".lock")


def dataset_paths(output_file: Path) -> DatasetPaths:
    """Name the files of the dataset at ``output_file``; where it is a link, of what it leads to.

    Raises:
        ConfigError: the name does not end in ``.jsonl``, or is a folder's.
    """
    if output_file.suffix != ".jsonl" or output_file.is_dir():
        raise ConfigError(
            f"--output_file is {str(output_file)!r}; it must be a file whose name ends in .jsonl"
        )
    output_file = without_link(output_file)
    return DatasetPaths(
        dataset=output_file,
        heldout=sibling(output_file, "heldout"),
        records=sibling(output_file, "records"),
        rejects=sibling(output_file, "rejects"),
        manifest=sibling(output_file, "manifest"),
        corrections=sibling(output_file, "corrections"),
    )
