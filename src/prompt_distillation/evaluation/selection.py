"""What is evaluated: held-out inputs, the truth about each, and what the model has seen of them.

The dataset that a model was trained on is a file of chat rows, ``NAME.jsonl``. Beside it may stand
``NAME.heldout.jsonl`` (chat rows that were kept out of training), ``NAME.records.jsonl`` (a record
per labelled input) and ``NAME.manifest.json``.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prompt_distillation.config.evaluate_config import TestConfig
from prompt_distillation.data.files import has_content, read_json, read_jsonl, sibling
from prompt_distillation.data.inputs import Input, check_gold, read_inputs, with_gold
from prompt_distillation.data.results import Overlap, TruthKind
from prompt_distillation.data.splits import input_key, is_held_out
from prompt_distillation.errors import InputError
from prompt_distillation.tasks import Task

logger = logging.getLogger(__name__)

Split = Literal["held_out", "all"]

DEFAULT_HELD_OUT_SHARE = 0.1
DEFAULT_HELD_OUT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """The teacher's answer to one input, and what it took.

    Attributes:
        answer: None where it gave none.
        seconds: from submission to the last token, queueing included.
    """

    answer: str | None
    raw_output: str | None = None
    reject_reason: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """What is known about the data that a model was trained on.

    Attributes:
        present: whether it is there; without it, overlap cannot be checked.
        keys: `input_key` of each of its rows.
        groups: groups on the training side of the split, where the records tell.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TestItem:
    """One input to evaluate.

    Attributes:
        truth: what the answer is judged by; None leaves it out of the accuracy.
        teacher: what the teacher said; None if it was not asked.
        trained_on: whether the text was trained on; None where the training data is not there.
    """

    __test__ = False  # not a test of pytest's

    input: Input
    truth: str | None
    teacher: TeacherRecord | None
    trained_on: bool | None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The inputs to evaluate, in file order.

    Attributes:
        of_split: how many inputs the split has; more than ``items`` where these are the first few.
    """

    items: tuple[TestItem, ...]
    truth: TruthKind
    overlap: Overlap
    split: Split
    of_split: int


def select_inputs(config: TestConfig, task: Task) -> Selection:
    """Read the test file and what is known about it, and choose what to evaluate."""
    # The default may be missing: a model can be evaluated without the data it was trained on.
    if (
        config.train_data_file != TestConfig().train_data_file
        and not config.train_data_file.is_file()
    ):
        raise InputError(
            f"no training data at {config.train_data_file} (--train_data_file); check the path, or "
            "leave the flag out"
        )
    inputs: Iterable[Input] = read_inputs(config.test_file, fields=config.inputs)
    if config.ground_truth_file is not None:
        inputs = with_gold(inputs, config.ground_truth_file)
    where = config.ground_truth_file or config.test_file
    inputs = list(check_gold(inputs, task, where=where))
    selection = select(
        inputs,
        read_labelled_data(config.train_data_file),
        split=config.split,
        max_samples=config.inputs.max_samples,
        truth=None if config.truth == "auto" else config.truth,
    )
    _tell(selection, total=len(inputs))
    return selection


def select(
    inputs: Sequence[Input],
    data: LabelledData,
    *,
    split: Split,
    max_samples: int | None,
    truth: TruthKind | None,
) -> Selection:
    """Choose the inputs of a split and join to each what is known about it.

    Args:
        inputs: all rows of the test file.
        data: what the model was trained on.
        split: ``held_out`` leaves out every input that was trained on, or whose group was.
        max_samples: the first so many of the split; None takes all.
        truth: what ``correct`` is judged by; None takes gold where any input has it, else the
            teacher's answers.

    Raises:
        InputError: the split is empty.
    """
    seen = data.groups | {item.group for item in inputs if _key(item) in data.keys}
    whole = inputs if split == "all" else list(_held_out(inputs, data, seen))
    chosen = whole[:max_samples]
    if not chosen:
        raise InputError(
            f"none of the {len(inputs)} inputs is held out: each was trained on, or another of its "
            "group was; use another test file, label again with a larger --held_out, or pass "
            "--split all to evaluate them although they were trained on"
        )
    truth = truth or ("gold" if any(item.gold is not None for item in chosen) else "teacher")
    items = tuple(_join(item, data, truth) for item in chosen)
    overlap = Overlap(
        checked=data.present,
        training_rows=data.rows,
        texts=sum(item.trained_on is True for item in items),
        groups=sum(item.input.group in seen for item in items),
        total=len(items),
    )
    return Selection(items=items, truth=truth, overlap=overlap, split=split, of_split=len(whole))


def _held_out(inputs: Iterable[Input], data: LabelledData, seen: frozenset[str]) -> Iterator[Input]:
    for item in inputs:
        if data.present:
            held_out = _key(item) not in data.keys and item.group not in seen
        else:  # all that is known is how labelling chooses
            held_out = is_held_out(item.group, share=data.held_out_share, seed=data.held_out_seed)
        if held_out:
            yield item


def _join(item: Input, data: LabelledData, truth: TruthKind) -> TestItem:
    key = _key(item)
    teacher = data.teacher.get(key)
    return TestItem(
        input=item,
        truth=item.gold if truth == "gold" else teacher.answer if teacher else None,
        teacher=teacher,
        trained_on=key in data.keys if data.present else None,
    )


def _key(item: Input) -> bytes:
    return input_key(item.text, item.history)


def _tell(selection: Selection, *, total: int) -> None:
    """Log what is evaluated, and warn about whatever makes the result say less than it seems to."""
    overlap, items = selection.overlap, selection.items
    if not overlap.checked:
        logger.warning(
            "The training data is not there (--train_data_file): whether these inputs were "
            "trained on cannot be checked."
        )
    elif overlap.texts or overlap.groups:
        logger.warning(
            "%.1f%% of these inputs (%d of %d) were TRAINED ON; %.1f%% share a group with one that "
            "was. What follows is not the accuracy on new inputs.",
            100 * overlap.texts / overlap.total, overlap.texts, overlap.total,
            100 * overlap.groups / overlap.total,
        )  # fmt: skip
    if all(item.truth is None for item in items):
        logger.warning(
            "None of these inputs has a known answer, neither a gold label (--label_field, "
            "--ground_truth_file) nor one of the teacher: accuracy cannot be measured."
        )
    if selection.split == "held_out":
        count, of_split = len(items), selection.of_split
        first = (
            f"the first {count} of {of_split} held out, of" if count < of_split else f"{count} of"
        )
        logger.info("Held-out inputs only: %s %d.", first, total)


def read_labelled_data(path: Path) -> LabelledData:
    """Read a dataset and the files beside it, as far as they exist."""
    heldout, records = sibling(path, "heldout"), sibling(path, "records")
    share, seed = _read_held_out_rule(sibling(path, "manifest"))
    rows = list(read_inputs(path)) if path.is_file() else []
    held_rows = list(read_inputs(heldout)) if has_content(heldout) else []
    teacher = {_key(row): TeacherRecord(answer=row.gold) for row in (*rows, *held_rows)}
    # Without records, conversations that were trained on are still known by how they begin.
    groups = set() if has_content(records) else {row.group for row in rows}
    if has_content(records):
        for key, group, held_out, record in _read_records(records):
            teacher[key] = record
            if not held_out:
                # Also where the teacher gave no answer: of the training side only such inputs are
                # not trained on, and to evaluate these hard ones alone would bias the result.
                groups.add(group)
    return LabelledData(
        path=path,
        present=path.is_file(),
        rows=len(rows),
        keys=frozenset(map(_key, rows)),
        groups=frozenset(groups),
        held_out_share=share,
        held_out_seed=seed,
        teacher=teacher,
    )


def read_teacher_answers(path: Path) -> dict[bytes, TeacherRecord]:
    """`input_key` -> the teacher's answer, of a file ``NAME.records.jsonl``."""
    return {key: record for key, _, _, record in _read_records(path)}


def _read_held_out_rule(manifest: Path) -> tuple[float, int]:
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


def _read_records(path: Path) -> Iterator[tuple[bytes, str, bool, TeacherRecord]]:
    """Yield ``(key, group, whether held out, what the teacher said)`` of each record."""
    for number, row in read_jsonl(path):
        try:
            last = row["outputs"][-1] if row.get("outputs") else {}
            record = TeacherRecord(
                answer=row["teacher_answer"],  # not `answer`, which a person may have corrected
                raw_output=last.get("text") or last.get("error"),
                reject_reason=row.get("reject_reason") or last.get("reject_reason"),
                finish_reason=row.get("finish_reason"),
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                seconds=row.get("seconds"),
            )
            yield input_key(row["text"], row["history"]), row["group"], row["held_out"], record
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: not a labelling record ({error!r}); build the dataset "
                "again with create_data.py, or move the file away"
            ) from error
