"""What is in inputs and datasets, measured before anyone trains on them.

Every measure is cheap and says what it is: scripts stand for languages, refusals are phrases at the
start of an answer, and leaks are marks or words in a row.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from prompt_distillation.config import InputConfig, flat
from prompt_distillation.config.inspect_config import InspectConfig
from prompt_distillation.data.dataset_files import read_records
from prompt_distillation.data.files import read_jsonl, sibling
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.near_duplicates import NearDuplicates
from prompt_distillation.data.splits import normalise
from prompt_distillation.data.text import encodable
from prompt_distillation.errors import InputError, ModelError
from prompt_distillation.provenance import provenance
from prompt_distillation.tasks import RejectReason, load_task

INSPECTION_VERSION = 1

INPUTS, TRAINING, HELD_OUT = "inputs", "training rows", "held-out rows"

MOST_PLACES = 5
"""Rows that a failed check names."""

REFUSAL = re.compile(
    r"^\W*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e)?,?\W*(?:but )?"
    r"(?:i (?:can['’]?t|cannot|can not|won['’]?t|will not) (?:help|assist|provide|comply|answer|do)"
    r"|i(?:['’]m| am) (?:unable|not able) to|as an ai\b|i(?:['’]m| am) (?:just )?an ai\b)",
    re.IGNORECASE,
)

MARKS = re.compile(r"</?think>|<\|(?:im_start|im_end|endoftext|eot_id|start_header_id)\|>")

SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bxox[abprs]-[A-Za-z0-9-]{20,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedRow:
    """One input or one row of a dataset.

    Attributes:
        part: where it stands: inputs, training rows or held-out rows.
        number: its place there, from 1.
        context: what stands before the text, as one text.
        answer: None for an input.
    """

    part: str
    number: int
    text: str
    context: str = ""
    answer: str | None = None
    group: str | None = None
    category: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long texts are.

    Attributes:
        unit: tokens or words.
        bins: ``(label, how many)``; each bin is twice as wide as the one before.
    """

    unit: str
    median: int
    p95: int
    longest: int
    bins: list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is in the inputs, the training rows, or the held-out rows.

    Attributes:
        duplicates: texts that repeat an earlier one of the part, by case and white space.
        near_duplicates: texts that nearly repeat an earlier, different one.
        scripts: script that most letters of a text have -> texts.
        answer_lengths: None for inputs, which have no answers.
    """

    name: str
    rows: int
    groups: int
    duplicates: int
    near_duplicates: int
    scripts: dict[str, int]
    categories: dict[str, int]
    text_lengths: Lengths
    answer_lengths: Lengths | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that may spoil a training run.

    Attributes:
        of: how many rows were looked at.
        limit: the highest share that passes.
        flag: that sets the limit.
        places: the first rows that were found.
    """

    name: str
    found: int
    of: int
    limit: float
    flag: str
    places: list[str]

    @property
    def share(self) -> float:
        """Rows found, as a share of those looked at."""
        return self.found / self.of if self.of else 0.0

    @property
    def passed(self) -> bool:
        """Whether the share is within its limit."""
        return self.share <= self.limit


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that was measured.

    Attributes:
        rejects: reason -> inputs without an answer; empty where there are no records.
        examples: rows drawn at random, secrets masked.
    """

    files: list[str]
    parts: list[Part]
    checks: list[Check]
    rejects: dict[str, int]
    examples: list[InspectedRow]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    inspection_version: int = INSPECTION_VERSION

    @property
    def failed(self) -> list[Check]:
        """What would spoil a training run."""
        return [check for check in self.checks if not check.passed]

    def __repr__(self) -> str:
        parts = [f"{part.name}={part.rows}" for part in self.parts]
        failed = [check.name for check in self.failed]
        return f"Inspection({', '.join(parts)}; failed={failed})"


def inspect(config: InspectConfig) -> Inspection:
    """Measure what is in inputs and dataset; see `prompt_distillation.inspect_data`."""
    collected = _Rows()
    if config.input_file is not None:
        collected.read_inputs(config.input_file, config.fields)
    if config.dataset is not None:
        collected.read_dataset(config.dataset)
    if not collected.rows and not collected.unreadable:
        raise InputError(
            f"{', '.join(collected.files)}: no inputs or rows; pass a file that has some"
        )
    count, unit = token_counter(config.model_name)
    prompt = load_task(config.task).prompt if config.task else ""
    parts, near = [], {}
    for name in (INPUTS, TRAINING, HELD_OUT):
        if rows := [row for row in collected.rows if row.part == name]:
            part, near[name] = _measure(rows, config, count=count, unit=unit)
            parts.append(part)
    checks = [
        *_checks_of_inputs(parts, config),
        *_checks_of_rows(collected, near, config, prompt=prompt, count=count),
    ]
    shown = random.Random(config.seed).sample(
        collected.rows, min(config.num_examples, len(collected.rows))
    )
    return Inspection(
        files=collected.files,
        parts=parts,
        checks=checks,
        rejects=dict(collected.rejects.most_common()),
        examples=[_masked(row) for row in shown],
        config=flat(config),
        provenance=provenance(),
    )


@dataclass
class _Rows:
    """What the files hold."""

    rows: list[InspectedRow] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    recorded: int = 0

    def read_inputs(self, path: Path, fields: InputConfig) -> None:
        self.files.append(str(path))
        for item in read_inputs(path, fields=fields):
            context = "\n".join(turn["content"] for turn in item.history)
            self.rows.append(
                InspectedRow(
                    part=INPUTS, number=item.index + 1, text=item.text, context=context,
                    group=item.group, category=item.category,
                )
            )  # fmt: skip

    def read_dataset(self, dataset: Path) -> None:
        known = {normalise(row.text): row for row in self.rows}
        held_out, records = sibling(dataset, "heldout"), sibling(dataset, "records")
        self._read_chat_rows(dataset, TRAINING, known)
        if held_out.is_file():
            self._read_chat_rows(held_out, HELD_OUT, known)
        if records.is_file():
            self.files.append(str(records))
            for record in read_records(records):
                self.recorded += 1
                if record["answer"] is None:
                    self.rejects[str(record["reject_reason"])] += 1

    def _read_chat_rows(self, path: Path, part: str, known: Mapping[str, InspectedRow]) -> None:
        self.files.append(str(path))
        for number, row in read_jsonl(path):
            turns = row.get("messages")
            if not _is_conversation(turns):
                self.unreadable.append(f"{path}, line {number}")
                continue
            *before, last, answer = (encodable(turn["content"])[0] for turn in turns)
            found = known.get(normalise(last))
            self.rows.append(
                InspectedRow(
                    part=part, number=number, text=last, answer=answer,
                    context="\n".join(before), group=found.group if found else None,
                    category=found.category if found else None,
                )
            )  # fmt: skip


def _is_conversation(turns: Any) -> TypeGuard[list[dict[str, str]]]:
    """Whether ``turns`` end with a user's turn and an answer, empty or not."""
    return (
        isinstance(turns, list)
        and len(turns) > 1
        and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns)
        and [turn.get("role") for turn in turns[-2:]] == ["user", "assistant"]
    )


def token_counter(model_name: str | None) -> tuple[Callable[[str], int], str]:
    """A function that counts a text's tokens, or words where no model is named; and the unit.

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    if model_name is None:
        return lambda text: len(text.split()), "words"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {model_name}: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False)), "tokens"


# --- parts -------------------------------------------------------------------------------------


def _measure(
    rows: Sequence[InspectedRow], config: InspectConfig, *, count: Callable[[str], int], unit: str
) -> tuple[Part, NearDuplicates]:
    seen: set[str] = set()
    near, nearly = NearDuplicates(config.near_duplicates), 0
    for row in rows:
        key = normalise(_whole(row))
        if key not in seen:
            seen.add(key)
            nearly += near.add(_whole(row))
    answers = [row.answer for row in rows if row.answer is not None]
    part = Part(
        name=rows[0].part,
        rows=len(rows),
        groups=len({row.group for row in rows if row.group is not None}),
        duplicates=len(rows) - len(seen),
        near_duplicates=nearly,
        scripts=dict(Counter(script_of(row.text) for row in rows).most_common()),
        categories=dict(Counter(row.category for row in rows if row.category).most_common()),
        text_lengths=lengths_of((count(row.text) for row in rows), unit=unit),
        answer_lengths=lengths_of(map(count, answers), unit=unit) if answers else None,
    )
    return part, near


def lengths_of(counts: Iterable[int], *, unit: str) -> Lengths:
    """Quantiles and a histogram of lengths.

    >>> lengths_of([1, 2, 3, 9], unit="words").bins
    [('0', 0), ('1', 1), ('2-3', 2), ('4-7', 0), ('8-15', 1)]
    """
    ordered = sorted(counts)
    bins = [0] * (ordered[-1].bit_length() + 1)
    for length in ordered:
        bins[length.bit_length()] += 1
    labels = ["0", "1", *(f"{1 << n}-{(2 << n) - 1}" for n in range(1, len(bins)))]
    return Lengths(
        unit=unit,
        median=ordered[len(ordered) // 2],
        p95=ordered[min(len(ordered) * 95 // 100, len(ordered) - 1)],
        longest=ordered[-1],
        bins=list(zip(labels, bins, strict=False)),
    )


def script_of(text: str) -> str:
    """The script that most letters of a text have, by their Unicode names; a hint at its language.

    >>> script_of("Wo ist der Bahnhof?"), script_of("Где вокзал?"), script_of("42")
    ('Latin', 'Cyrillic', 'no letters')
    """
    scripts = Counter(_script(letter) for letter in text if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "no letters"


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "unknown").split()[0]
    return {"CJK": "Han"}.get(name, name.capitalize())


# --- checks ------------------------------------------------------------------------------------


def _checks_of_inputs(parts: Iterable[Part], config: InspectConfig) -> Iterator[Check]:
    for part in parts:
        for kind, limit in (
            ("duplicates", config.limits.max_duplicates),
            ("near_duplicates", config.limits.max_near_duplicates),
        ):
            yield Check(
                name=f"{kind.replace('_', '-')} among the {part.name}",
                found=getattr(part, kind), of=part.rows, limit=limit, flag=f"--max_{kind}",
                places=[],
            )  # fmt: skip


def _checks_of_rows(
    collected: _Rows,
    near: Mapping[str, NearDuplicates],
    config: InspectConfig,
    *,
    prompt: str,
    count: Callable[[str], int],
) -> Iterator[Check]:
    limits = config.limits
    rows = [row for row in collected.rows if row.answer is not None]

    def check(name: str, flag: str, found: Iterable[InspectedRow], of: int) -> Check:
        places = [f"{row.part}, row {row.number}" for row in found]
        return Check(
            name=name, found=len(places), of=of, limit=getattr(limits, flag), flag=f"--{flag}",
            places=places[:MOST_PLACES],
        )  # fmt: skip

    secret = (one for one in collected.rows if SECRETS.search(f"{one.text} {one.answer or ''}"))
    yield check("keys and tokens", "max_secrets", secret, len(collected.rows))
    if config.dataset is None:
        return
    unreadable = check("rows that are no conversation", "max_unreadable", (), 0)
    places, total = collected.unreadable, len(rows) + len(collected.unreadable)
    yield replace(unreadable, found=len(places), of=total, places=places[:MOST_PLACES])
    empty = (row for row in rows if not (row.answer or "").strip())
    yield check("empty answers", "max_empty", empty, len(rows))
    yield check(
        "rows that contradict another", "max_contradictions", _contradictions(rows), len(rows)
    )
    refused = (row for row in rows if REFUSAL.match(row.answer or ""))
    yield check("refusals", "max_refused", refused, len(rows))
    leaks = _Leaks(prompt, words=config.leak_words)
    yield check("leaks", "max_leaks", (row for row in rows if leaks.found_in(row)), len(rows))
    if held_out := [row for row in rows if row.part == HELD_OUT]:
        seen = near.get(TRAINING)
        repeated = (row for row in held_out if seen and seen.has(_whole(row)))
        yield check(
            "held-out inputs seen in training", "max_held_out_seen", repeated, len(held_out)
        )
    if config.model_name is not None:
        training = [row for row in rows if row.part == TRAINING]
        long = (row for row in training if _length(row, count) > config.max_length)
        yield check(f"rows over {config.max_length} tokens", "max_too_long", long, len(training))
    if collected.recorded:
        for name, flag, found in (
            ("inputs without an answer", "max_rejected", collected.rejects.total()),
            ("answers cut off", "max_cut", collected.rejects[RejectReason.LENGTH]),
        ):
            yield replace(check(name, flag, (), collected.recorded), found=found)


def _whole(row: InspectedRow) -> str:
    return f"{row.context}\n{row.text}" if row.context else row.text


def _length(row: InspectedRow, count: Callable[[str], int]) -> int:
    """Tokens of a row; the marks of its turns are not counted."""
    return count(row.context) + count(row.text) + count(row.answer or "")


def _contradictions(rows: Sequence[InspectedRow]) -> Iterator[InspectedRow]:
    """Rows whose input was answered in another way before."""
    answers: dict[str, str] = {}
    for row in rows:
        answer = normalise(row.answer or "")
        if answers.setdefault(normalise(_whole(row)), answer) != answer:
            yield row


class _Leaks:
    """Finds marks, and words in a row of the prompt, in answers."""

    def __init__(self, prompt: str, *, words: int) -> None:
        self._words = words
        self._of_prompt = set(self._runs(prompt))

    def found_in(self, row: InspectedRow) -> bool:
        answer = row.answer or ""
        if MARKS.search(answer):
            return True
        return bool(self._of_prompt) and not self._of_prompt.isdisjoint(self._runs(answer))

    def _runs(self, text: str) -> Iterator[tuple[str, ...]]:
        words = re.findall(r"\w+", normalise(text))
        return (tuple(words[at : at + self._words]) for at in range(len(words) - self._words + 1))


def _masked(row: InspectedRow) -> InspectedRow:
    """The row, what looks like a secret replaced."""
    answer = None if row.answer is None else SECRETS.sub("[secret]", row.answer)
    text, context = (SECRETS.sub("[secret]", one) for one in (row.text, row.context))
    return replace(row, text=text, context=context, answer=answer)
