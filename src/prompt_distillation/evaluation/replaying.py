"""Predictions from a file instead of a model: to score again, or what another program predicted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_json, read_jsonl, read_lines
from prompt_distillation.data.results import Prediction
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.predicting import prediction_of
from prompt_distillation.evaluation.selection import TestItem
from prompt_distillation.tasks import Answer, RejectReason, Task


def replay(path: Path, items: Sequence[TestItem], *, task: Task) -> Iterator[Prediction]:
    """Yield a prediction per item from a file that has one each, in the same order.

    Args:
        path: ``.txt`` with a label a line (an empty line is no answer), ``.jsonl`` with
            ``predicted`` (a label, or null), or the ``.json`` of an earlier evaluation.
        items: the inputs that are evaluated.
        task: by whose labels a prediction counts as an answer.

    Raises:
        InputError: another number of predictions than inputs, a row without ``predicted``, or a
            row whose ``text`` is not that of the input in its place.
    """
    rows = _read_rows(path)
    if len(rows) != len(items):
        raise InputError(
            f"{path} has {len(rows)} predictions for {len(items)} inputs; it needs one each, in "
            "the order of the inputs that are evaluated (see --split, --max_samples)"
        )
    for number, (row, item) in enumerate(zip(rows, items, strict=True), start=1):
        where = f"{path}, prediction {number}"
        if "text" in row and row["text"] != item.input.text:
            raise InputError(f"{where}: its text is not that of input {item.input.index + 1}")
        yield prediction_of(item, _answer(row, task, where=where), task=task)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    match path.suffix.lower():
        case ".jsonl":
            return [row for _, row in read_jsonl(path)]
        case ".json":
            rows = read_json(path).get("predictions")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise InputError(f"{path}: no list of objects under 'predictions'")
            return rows
    return [{"predicted": line.strip() or None} for _, line in read_lines(path)]


def _answer(row: dict[str, Any], task: Task, *, where: str) -> Answer:
    if "predicted" not in row:
        raise InputError(f"{where}: no field 'predicted' (a label, or null for no answer)")
    predicted = row["predicted"]
    if predicted is None:
        return Answer(reject_reason=RejectReason.EMPTY)
    if not isinstance(predicted, str):
        raise InputError(f"{where}: 'predicted' is {predicted!r}; a label or null is wanted")
    return task.answers.accept(predicted)
