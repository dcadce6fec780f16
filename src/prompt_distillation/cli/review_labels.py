"""Check labels by hand in the terminal; what is decided goes into the corrections file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import Settings, option
from prompt_distillation.data.files import dump_json, sibling
from prompt_distillation.data.text import encodable, safe_for_terminal
from prompt_distillation.errors import ConfigError, InputError, OutputWriteError
from prompt_distillation.tasks import Task, load_task

if TYPE_CHECKING:
    from prompt_distillation.data.dataset_files import Record

DESCRIPTION = """\
Show the labels that may be wrong: votes for several answers, a gold label that differs,
near-duplicates with another label, inputs without a label. Press Enter to keep a label, or type
another one. Both are stored in NAME.corrections.jsonl, and `create_data.py ... --overwrite` then
rebuilds the dataset with them, without asking the teacher again."""


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(Settings):
    """All flags of the command; see their help."""

    dataset: Path = option(
        Path("data/prompt_distillation_lang.jsonl"), "the dataset that create_data.py wrote"
    )
    task: Path = option(Path("tasks/language"), "folder of the task: task.yaml and its prompt")
    show: Literal["all", "votes", "gold", "duplicates", "rejects"] = option(
        "all", "which disagreements are shown"
    )
    list: bool = option(False, "print them and decide nothing")


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(ReviewConfig, argv, description=DESCRIPTION)
    if not config.list and not sys.stdin.isatty():
        raise ConfigError("there is no terminal to decide in; pass --list to print them")
    from prompt_distillation.labelling.disagreements import (
        DisagreementKind,
        find_disagreements,
        read_corrections,
    )

    task = load_task(config.task)
    records, corrections = (sibling(config.dataset, part) for part in ("records", "corrections"))
    if not records.is_file():
        raise InputError(f"no records at {records}; --dataset must be one create_data.py wrote")
    decided = read_corrections(corrections, task)
    kinds = list(DisagreementKind) if config.show == "all" else [DisagreementKind(config.show)]
    shown = written = 0
    for found in find_disagreements(records, kinds):
        record = found.record
        if decided.answer_for(record["text"], record["history"]) is not None:
            continue
        shown += 1
        _print(record, f"{found.kind}: {found.evidence}", number=shown)
        if config.list:
            continue
        answer = _ask(record, task)
        if answer is None:
            break
        if answer:
            _append(corrections, record, answer)
            written += 1
    _say(f"{shown} inputs shown, {written} decided")
    if written:
        _say(
            f"now write the dataset again: create_data.py --output_file {config.dataset} "
            "--overwrite, with its other flags as before"
        )
    return None


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _print(record: "Record", evidence: str, *, number: int) -> None:
    """One input and why its label is doubtful, with control characters escaped."""
    _say(f"\n[{number}] input {record['index'] + 1}: {safe_for_terminal(record['text'])}")
    for turn in record["history"]:
        _say(f"    after {turn['role']}: {safe_for_terminal(turn['content'])}")
    _say(f"    label {safe_for_terminal(record['answer'] or '-')}    {safe_for_terminal(evidence)}")
    if record["reasoning"]:
        said = " ".join(record["reasoning"].split())[-400:]
        _say(f"    reasoning: {safe_for_terminal(said)}")


def _ask(record: "Record", task: Task) -> str | None:
    """The person's answer: a label, an empty text to leave it open, None to stop."""
    keep = "enter accepts, " if record["answer"] else ""
    while True:
        try:
            given = input(f"    {keep}a label corrects, s leaves it open, q stops: ").strip()
        except EOFError:
            return None
        if given == "q":
            return None
        if given == "s":
            return ""
        if not given and record["answer"]:
            return record["answer"]
        if given:
            answer = task.answers.accept(encodable(given)[0])
            if answer.text is not None:
                return answer.text
            _say(f"    {answer.detail}")


def _append(path: Path, record: "Record", answer: str) -> None:
    row = {
        "text": record["text"],
        "history": record["history"],
        "answer": answer,
        "was": record["answer"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(dump_json(row) + "\n")
    except OSError as error:
        raise OutputWriteError(f"cannot write {path}: {error.strerror or error}") from error
