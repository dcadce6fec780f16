"""Inputs as people have them: txt, jsonl, csv, parquet or a `datasets` folder, streamed.

A row may carry a *gold* label and a *group* (translations of one sentence share it). For a text
file both are in ``NAME.gold.jsonl`` beside it: one object per line, ``{"label": "fr", "group":
"block-001"}``, in the order of the lines. A split never cuts a group.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.config import InputConfig
from prompt_distillation.data.chat_rows import ROLES
from prompt_distillation.data.files import read_jsonl, read_lines
from prompt_distillation.data.splits import group_of_text
from prompt_distillation.data.tables import csv_rows, dataset_rows, parquet_rows
from prompt_distillation.data.text import encodable
from prompt_distillation.errors import InputError
from prompt_distillation.tasks import ChatMessage, Task

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 32_768
"""Longest input taken. A longer one is nearly always two files glued together, or binary."""

_SEPARATORS = {";": "semicolon", "\t": "tab", ",": "comma"}

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One thing to label.

    Attributes:
        index: position among the file's rows, from 0.
        text: what the user wrote.
        group: rows of one group fall on one side of a split.
        gold: the true label, where it is known.
        history: the turns before ``text``, for a conversation.
        category: what the field ``category`` says; only inspection looks at it.
    """

    index: int
    text: str
    group: str
    gold: str | None = None
    history: tuple[ChatMessage, ...] = ()
    category: str | None = None


def read_inputs(path: Path, *, fields: InputConfig | None = None) -> Iterator[Input]:
    """Stream the inputs of a file, in order; at the end an empty file is an error.

    Args:
        path: .txt (one input a line; blank lines are skipped, counted and logged), .jsonl,
            .csv, .tsv, .parquet, or a folder written by ``datasets.Dataset.save_to_disk``.
        fields: what the fields of the rows are called; None takes the default names.

    Raises:
        InputError: missing, empty, of an unknown format, not UTF-8, a row without one of the
            fields that were asked for, a text over `MAX_CHARACTERS`, or a gold file of another
            length.
    """
    fields = fields or InputConfig()
    index, changed = -1, 0
    for index, (where, row) in enumerate(_rows(path, fields)):
        item, was_changed = _input_of_row(row, index=index, where=where, fields=fields)
        changed += was_changed
        yield item
    if index < 0:
        raise InputError(f"{path} holds no inputs; it needs at least one line of text")
    if changed:
        logger.warning(
            "%s: %d inputs held half a character, cut inside an emoji; each is now U+FFFD",
            path, changed,
        )  # fmt: skip


def _rows(path: Path, fields: InputConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_dir():
        return dataset_rows(path)
    if not path.is_file():
        raise InputError(
            f"no such input file: {path}; check the path (the current folder is {Path.cwd()})"
        )
    match path.suffix.lower():
        case ".txt":
            return _text_rows(path, fields)
        case ".jsonl":
            return ((f"{path}, line {number}", row) for number, row in read_jsonl(path))
        case ".csv" | ".tsv":
            return csv_rows(path)
        case ".parquet":
            return parquet_rows(path)
    raise InputError(
        f"{path}: unknown format {path.suffix!r}; known are {', '.join(FORMATS)} and a folder "
        "written by datasets.Dataset.save_to_disk"
    )


def gold_path_of(path: Path) -> Path:
    """Where the gold labels and groups of a text file stand: ``NAME.gold.jsonl`` beside it."""
    return path.with_name(f"{path.stem}.gold.jsonl")


def _text_rows(path: Path, fields: InputConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Lines of a text file, each with its row of the gold file where there is one."""
    gold_path = gold_path_of(path)
    gold = read_jsonl(gold_path) if gold_path.is_file() else None
    blank = count = 0
    for number, line in read_lines(path):
        if not line.strip():
            blank += 1
            continue
        count += 1
        row: dict[str, Any] = {fields.text_field: line}
        if gold is not None:
            gold_row = next(gold, None)
            if gold_row is None:
                raise InputError(
                    f"{gold_path} has {count - 1} rows, but {path} has more lines with text; "
                    "it needs one row per line"
                )
            label, group = _gold_of_row(gold_row[1], where=f"{gold_path}, line {gold_row[0]}")
            row |= {fields.label_field: label, fields.group_field: group}
        yield f"{path}, line {number}", row
    if gold is not None and next(gold, None) is not None:
        raise InputError(
            f"{gold_path} has more rows than {path} has lines with text ({count}); "
            "it needs one row per line"
        )
    if blank:
        logger.warning("%s: skipped %d blank lines", path, blank)


def _input_of_row(
    row: Mapping[str, Any], *, index: int, where: str, fields: InputConfig
) -> tuple[Input, bool]:
    """The input of a row, and whether its text had to be made encodable."""
    history: tuple[ChatMessage, ...] = ()
    gold = row.get(fields.label_field)
    text = row.get(fields.text_field)
    if text is None and isinstance(row.get("messages"), list):
        history, text, answer = _conversation_of(row["messages"], where=where)
        gold = gold if gold is not None else answer
    for name in (fields.label_field, fields.group_field):
        if name not in row and name not in (InputConfig.label_field, InputConfig.group_field):
            raise InputError(f"{where}: no field {name!r}; the row has {_names(row)}")
    text, text_changed = encodable(_checked_text(text, row, where=where, field=fields.text_field))
    turns = [encodable(turn["content"]) for turn in history]
    history = tuple(
        {"role": turn["role"], "content": content}
        for turn, (content, _) in zip(history, turns, strict=True)
    )
    group = row.get(fields.group_field)
    item = Input(
        index=index,
        text=text,
        group=encodable(str(group))[0] if group not in (None, "") else group_of_text(text, history),
        gold=_gold_text(gold) if gold not in (None, "") else None,
        history=history,
        category=encodable(str(row["category"]))[0] if row.get("category") else None,
    )
    return item, text_changed or any(changed for _, changed in turns)


def _checked_text(text: Any, row: Mapping[str, Any], *, where: str, field: str) -> str:
    """Return ``text`` if it is one that can be asked; raise `InputError` otherwise."""
    if not isinstance(text, str) and field in row:
        what = "null" if text is None else f"a value of type {type(text).__name__}"
        raise InputError(
            f"{where}: the field {field!r} holds {what}; it must be a text (--text_field "
            "names another field)"
        )
    if not isinstance(text, str):
        raise InputError(
            f"{where}: no text in the field {field!r}; the row has {_names(row)} ({_remedy(row)})"
        )
    if not text.strip():
        raise InputError(f"{where}: the text is empty; remove the row or fill it")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{where}: {len(text):,} characters, at most {MAX_CHARACTERS:,} are taken; "
            "split or shorten the text"
        )
    return text


def _gold_text(gold: Any) -> str:
    """A gold answer as text: an object or a list as JSON."""
    is_json = isinstance(gold, dict | list)
    return encodable(json.dumps(gold, ensure_ascii=False) if is_json else str(gold))[0]


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no fields"


def _remedy(row: Mapping[str, Any]) -> str:
    """What to do about a row without a text."""
    names = list(map(str, row))
    found = [name for mark, name in _SEPARATORS.items() if mark in names[0]] if names else []
    if len(names) == 1 and found:
        return (
            f"one field, with a {found[0]} in its name: is that what separates the fields? .csv is "
            "read by commas, .tsv by tabs; write the file so"
        )
    return "set --text_field"


def _conversation_of(
    messages: list[Any], *, where: str
) -> tuple[tuple[ChatMessage, ...], str, str | None]:
    """Take chat ``messages`` apart: turns before the last user turn, that turn, its answer."""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise InputError(f"{where}: each message needs a role and a content that is a text")
        if message.get("role") not in ROLES:
            raise InputError(
                f"{where}: a message has the role {message.get('role')!r}; allowed are "
                f"{', '.join(ROLES)}"
            )
    turns = [message for message in messages if message.get("role") != "system"]
    answer = None
    if turns and turns[-1].get("role") == "assistant":
        answer = turns.pop()["content"]
    if not turns or turns[-1].get("role") != "user":
        raise InputError(
            f"{where}: messages must end with a user turn, optionally followed by one answer"
        )
    return tuple(turns[:-1]), turns[-1]["content"], answer


def _gold_of_row(row: Mapping[str, Any], *, where: str) -> tuple[str | None, str | None]:
    """Label and group of one row of gold; an unknown label is null, not left out."""
    label, group = row.get("label", ""), row.get("group")
    if isinstance(label, dict | list):
        label = _gold_text(label)
    if label is not None and (not isinstance(label, str) or not label):
        raise InputError(f"{where}: no text in the field 'label' (null if it is unknown)")
    return label, str(group) if group is not None else None


def read_gold_file(path: Path) -> list[tuple[str | None, str | None]]:
    """Read ``(label, group)`` rows: jsonl with ``label`` and ``group``, or one label a line.

    In jsonl an unknown label is null.
    """
    rows: list[tuple[str | None, str | None]]
    if path.suffix.lower() == ".jsonl":
        rows = [_gold_of_row(row, where=f"{path}, line {n}") for n, row in read_jsonl(path)]
    else:
        rows = [(line.strip(), None) for _, line in read_lines(path) if line.strip()]
    if not rows:
        raise InputError(f"{path} holds no labels; it needs one per line")
    return rows


def with_gold(inputs: Iterable[Input], gold_path: Path) -> list[Input]:
    """Replace the gold labels (and groups, where given) of ``inputs`` by those of a file."""
    rows = read_gold_file(gold_path)
    inputs = list(inputs)
    if len(rows) != len(inputs):
        raise InputError(
            f"{gold_path} has {len(rows)} labels for {len(inputs)} inputs; it needs one each, "
            "in the same order"
        )
    return [
        replace(item, gold=label, group=group if group is not None else item.group)
        for item, (label, group) in zip(inputs, rows, strict=True)
    ]


def check_gold(inputs: Iterable[Input], task: Task, *, where: Path) -> Iterator[Input]:
    """Pass ``inputs`` through, each gold answer checked and in its canonical form.

    Raises:
        TaskError: an unknown label; the message names the row.
    """
    for item in inputs:
        if item.gold is not None:
            gold = task.require_answer(item.gold, where=f"{where}, input {item.index + 1}")
            item = item if gold == item.gold else replace(item, gold=gold)
        yield item
