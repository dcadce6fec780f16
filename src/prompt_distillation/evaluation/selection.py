"""Which inputs are evaluated, by which truth, and what of them the model was trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import Overlap, TruthKind
from prompt_distillation.data.splits import input_key, is_held_out
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.training_data import (
    TeacherRecord,
    TrainingData,
    training_groups,
)

Split = Literal["held_out", "all"]


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


def select(
    inputs: Sequence[Input],
    training: TrainingData,
    *,
    split: Split,
    max_samples: int | None,
    truth: TruthKind | None,
) -> Selection:
    """Choose the inputs of a split and join to each what is known of it.

    Args:
        inputs: all rows of the test file.
        training: what is known of the training.
        split: ``held_out`` takes the groups that were kept out of training.
        max_samples: the first so many of the split; None takes all.
        truth: what ``correct`` is judged by; None takes gold where any input has it, else the
            teacher's answers.

    Raises:
        InputError: the split is empty.
    """
    whole = list(_of_split(inputs, training, split))
    chosen = whole[:max_samples]
    if not chosen:
        raise InputError(
            f"none of the {len(inputs)} inputs is held out (share {training.held_out_share}, seed "
            f"{training.held_out_seed}); label again with a larger --held_out, or pass --split all "
            "to evaluate all of them: then it is measured on inputs that were trained on"
        )
    truth = truth or ("gold" if any(item.gold is not None for item in chosen) else "teacher")
    items = tuple(_join(item, training, truth) for item in chosen)
    groups = training_groups(training, inputs)
    overlap = Overlap(
        checked=training.present,
        training_rows=training.rows,
        texts=sum(item.trained_on is True for item in items),
        groups=sum(item.input.group in groups for item in items),
        total=len(items),
    )
    return Selection(items=items, truth=truth, overlap=overlap, split=split, of_split=len(whole))


def _of_split(inputs: Iterable[Input], training: TrainingData, split: Split) -> Iterable[Input]:
    if split == "all":
        return inputs
    share, seed = training.held_out_share, training.held_out_seed
    return (item for item in inputs if is_held_out(item.group, share=share, seed=seed))


def _join(item: Input, training: TrainingData, truth: TruthKind) -> TestItem:
    key = input_key(item.text, item.history)
    teacher = training.teacher.get(key)
    return TestItem(
        input=item,
        truth=item.gold if truth == "gold" else teacher.answer if teacher else None,
        teacher=teacher,
        trained_on=key in training.keys if training.present else None,
    )
