"""What labelling writes: where each file of a dataset is, and what its rows hold.

Every file's name follows from the dataset's, so that training, evaluation and reports find the
others beside it.
"""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast, get_args

from prompt_distillation.data.files import DatasetPart, read_jsonl, sibling, without_link
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.tasks import ChatMessage


class RecordedOutput(TypedDict):
    """One attempt, as a record holds it: the raw text, and what was read out of it.

    Attributes:
        vote: which of an input's votes, from 0.
        attempt: which of the vote's attempts, from 0.
        answer: the label or text; None if there is none, and then ``reject_reason`` says why.
        error: why the request failed; then there is neither text nor tokens.
        seconds: from submission to the last token.
        repaired: there, and true, where half characters in the text were replaced.
    """

    vote: int
    attempt: int
    temperature: float
    max_tokens: int
    answer: str | None
    reject_reason: str | None
    error: NotRequired[str | None]
    text: NotRequired[str]
    finish_reason: NotRequired[str]
    completion_tokens: NotRequired[int]
    seconds: NotRequired[float]
    repaired: NotRequired[bool]


class Record(TypedDict):
    """A row of ``NAME.records.jsonl``: all that is known about one input.

    Attributes:
        index: position in the input file, from 0.
        history: the turns before ``text``.
        gold: the true label, where it is known.
        answer: what the dataset holds: a person's correction, or the teacher's answer.
        teacher_answer: the teacher's own answer; None if it gave none.
        votes: answer -> how many votes it got, most first; ``soft_label`` holds their shares.
        agreement: share of the votes drawn that went to the leading answer.
        duplicate: whether the label was taken from an earlier input.
        finish_reason: of the attempt that decided.
        prompt_tokens: of all attempts, as are ``cached_tokens``, ``completion_tokens`` and
            ``seconds``; a duplicate repeats those of its first.
        outputs: the attempts, by vote and attempt.
    """

    index: int
    text: str
    history: list[ChatMessage]
    group: str
    gold: str | None
    held_out: bool
    answer: str | None
    reject_reason: str | None
    corrected: bool
    teacher_answer: str | None
    reasoning: str | None
    votes: dict[str, int]
    soft_label: dict[str, float]
    agreement: float
    duplicate: bool
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: NotRequired[int]
    completion_tokens: int
    seconds: float
    outputs: list[RecordedOutput]


class Reject(TypedDict):
    """A row of ``NAME.rejects.jsonl``: an input without a label, and why."""

    index: int
    text: str
    group: str
    gold: str | None
    reason: str | None
    error: str | None
    votes: dict[str, int]
    attempts: int
    last_output: str | None


class Manifest(TypedDict):
    """``NAME.manifest.json``: what the dataset was made of, by whom and how.

    Attributes:
        held_out: ``share`` of the groups, and ``seed`` of that choice.
        dataset_sha256: of ``NAME.jsonl``.
        replaced_sha256: of the dataset that this one replaced, until it was in place.
        counts: see `prompt_distillation.labelling.dataset.Counts`.
        engine: that ran the teacher; None if the journal had every answer.
        seconds: how long the run took that wrote the dataset.
        startup_seconds: of them, until the teacher was loaded.
        requests_made: by that run; the others of the dataset were in the journal before.
        settings: all that decides the dataset: equal settings, equal dataset.
        config: the command's own configuration, flat.
    """

    task: dict[str, object]
    model: dict[str, object]
    sampling: dict[str, object]
    held_out: dict[str, float]
    input_file: str
    dataset_sha256: str
    replaced_sha256: str | None
    counts: dict[str, Any]
    engine: str | None
    seconds: float
    startup_seconds: float
    requests_made: int
    settings: dict[str, object]
    config: dict[str, object]
    provenance: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One part of the inputs, labelled by one process."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPaths:
    """The files of one dataset."""

    dataset: Path
    heldout: Path
    records: Path
    rejects: Path
    manifest: Path
    corrections: Path
    logprobs: Path

    @property
    def made(self) -> list[Path]:
        """Every file of the dataset that labelling makes."""
        return [
            self.dataset, self.heldout, self.records, self.rejects, self.manifest, self.logprobs
        ]  # fmt: skip

    def written(self, shard: Shard) -> list[Path]:
        """Every file that the process which labels ``shard`` may write."""
        return [*self.made, self.journal(shard), self.lock(shard)]

    def journal(self, shard: Shard) -> Path:
        """The journal of the process that labels ``shard``."""
        stem = self.dataset.stem
        if shard.count == 1:
            return self.dataset.with_name(f"{stem}.journal.jsonl")
        return self.dataset.with_name(f"{stem}.journal.{shard.index}-of-{shard.count}.jsonl")

    def shards(self) -> list[Shard]:
        """The shards whose journals exist, whatever numbers of shards were used."""
        name = re.compile(rf"{re.escape(self.dataset.stem)}\.journal(?:\.(\d+)-of-(\d+))?\.jsonl")
        if not self.dataset.parent.is_dir():
            return []
        found = (name.fullmatch(path.name) for path in self.dataset.parent.iterdir())
        numbers = sorted((int(m[2] or 1), int(m[1] or 0)) for m in found if m)
        return [Shard(index=index, count=count) for count, index in numbers]

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of a run that was killed; only its successor may."""
        for path in self.made:
            for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
                leftover.unlink(missing_ok=True)

    def lock(self, shard: Shard) -> Path:
        """The file whose lock the process that labels ``shard`` holds."""
        return self.journal(shard).with_suffix(".lock")


def dataset_paths(output_file: Path) -> DatasetPaths:
    """Name the files of the dataset at ``output_file``; where it is a link, of what it leads to."""
    if output_file.suffix != ".jsonl" or output_file.is_dir():
        raise ConfigError(
            f"--output_file is {str(output_file)!r}; it must be a file whose name ends in .jsonl"
        )
    output_file = without_link(output_file)
    parts = {part: sibling(output_file, part) for part in get_args(DatasetPart)}
    return DatasetPaths(dataset=output_file, **parts)


_RECORD_TYPES: dict[str, type | tuple[type, ...]] = {
    "index": int,
    "text": str,
    "history": list,
    "group": str,
    "gold": (str, type(None)),
    "held_out": bool,
    "answer": (str, type(None)),
    "reject_reason": (str, type(None)),
    "teacher_answer": (str, type(None)),
    "reasoning": (str, type(None)),
    "votes": dict,
    "finish_reason": (str, type(None)),
    "prompt_tokens": int,
    "completion_tokens": int,
    "seconds": (int, float),
}


def read_records(path: Path) -> Iterator[Record]:
    """Stream the rows of ``NAME.records.jsonl``."""
    for number, row in read_jsonl(path):
        wrong = [name for name, kind in _RECORD_TYPES.items() if not _is(row.get(name, path), kind)]
        if wrong:
            raise InputError(
                f"{path}, line {number}: not a labelling record (see {wrong[0]!r}); write the "
                "dataset again with create_data.py, or move the file away"
            )
        yield cast(Record, row)


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    turns = value if isinstance(value, list) else []
    return isinstance(value, kind) and all(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns
    )
