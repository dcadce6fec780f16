"""What the model was trained on, and what the teacher said: read from the dataset and its siblings.

The dataset is a file of chat rows; beside ``NAME.jsonl`` may stand ``NAME.heldout.jsonl`` (chat
rows too), ``NAME.records.jsonl`` (a record per input) and ``NAME.manifest.json``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_json, read_jsonl, sibling
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.splits import input_key
from prompt_distillation.errors import InputError

DEFAULT_HELD_OUT_SHARE = 0.1
DEFAULT_HELD_OUT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """The teacher's answer to one input.

    Attributes:
        answer: None where it gave none.
    """

    answer: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is known of the training.

    Attributes:
        path: the dataset.
        present: whether it is there; without it, overlap cannot be checked.
        rows: how many chat rows it has.
        keys: `input_key` of each training row.
        groups: groups of which a member was trained on, where the records tell.
        teacher: `input_key` -> what the teacher said, held-out inputs included.
    """

    path: Path
    present: bool
    rows: int
    keys: frozenset[bytes]
    groups: frozenset[str]
    held_out_share: float
    held_out_seed: int
    teacher: Mapping[bytes, TeacherRecord]


def read_training_data(path: Path) -> TrainingData:
    """Read a dataset and what stands beside it; a missing file is an answer too.

    Raises:
        InputError: one of the files is there and is not what it should be.
    """
    heldout, records = sibling(path, "heldout"), sibling(path, "records")
    manifest = sibling(path, "manifest")
    share, seed = _read_held_out_rule(manifest)
    present = path.is_file()
    rows = list(read_inputs(path)) if present else []
    held_rows = list(read_inputs(heldout)) if _has_content(heldout) else []
    teacher = {
        input_key(row.text, row.history): TeacherRecord(answer=row.gold)
        for row in (*rows, *held_rows)
    }
    groups: frozenset[str] = frozenset()
    if _has_content(records):
        recorded, groups = _read_records(records)
        teacher |= recorded
    return TrainingData(
        path=path,
        present=present,
        rows=len(rows),
        keys=frozenset(input_key(row.text, row.history) for row in rows),
        groups=groups,
        held_out_share=share,
        held_out_seed=seed,
        teacher=teacher,
    )


def training_groups(training: TrainingData, inputs: Iterable[Input]) -> frozenset[str]:
    """Groups of which a member was trained on, as the records or the test file itself tell."""
    of_test_file = {
        item.group for item in inputs if input_key(item.text, item.history) in training.keys
    }
    return training.groups | of_test_file


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_held_out_rule(manifest: Path) -> tuple[float, int]:
    """Share and seed by which groups were kept out of training."""
    if not manifest.is_file():
        return DEFAULT_HELD_OUT_SHARE, DEFAULT_HELD_OUT_SEED
    rule: Any = read_json(manifest).get("held_out")
    try:
        return float(rule["share"]), int(rule["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{manifest}: 'held_out' must hold the numbers 'share' and 'seed', got {rule!r}; label "
            "the data again or restore the file"
        ) from error


def _read_records(path: Path) -> tuple[dict[bytes, TeacherRecord], frozenset[str]]:
    """The teacher's answers by conversation, and the groups that were trained on."""
    teacher: dict[bytes, TeacherRecord] = {}
    groups = set()
    for number, row in read_jsonl(path):
        try:
            item = Input(
                index=row["index"],
                text=row["text"],
                group=row["group"],
                history=tuple(row["history"]),
            )
            teacher[input_key(item.text, item.history)] = TeacherRecord(
                answer=row["teacher_answer"],  # not `answer`, which a person may have corrected
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
            )
            if row["answer"] is not None and not row["held_out"]:
                groups.add(item.group)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: not a labelling record ({error!r}); build the dataset "
                "again with create_data.py, or move the file away"
            ) from error
    return teacher, frozenset(groups)
