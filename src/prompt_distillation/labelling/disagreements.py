"""Doubtful labels, and what a person decided about them.

``NAME.corrections.jsonl`` holds one object a line: ``text``, ``answer``, and ``history`` where the
input has one. It applies to every input with the same text (and its normalised duplicates), under
any prompt or model: a person's word outlives the teacher's. The last line on a text counts.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from prompt_distillation.config import Duplicates
from prompt_distillation.data.dataset_files import Record, read_records
from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.splits import input_key, normalise
from prompt_distillation.data.text import encodable
from prompt_distillation.errors import InputError
from prompt_distillation.tasks import Task

logger = logging.getLogger(__name__)

MOST_COMPARED = 20_000
"""Inputs among which near-duplicates are looked for: every one is compared with every other."""

NEAR = 0.8
"""Cosine of two texts' character n-grams from which they are near-duplicates."""


class DisagreementKind(StrEnum):
    """Why a label is doubtful."""

    VOTES = "votes"
    GOLD = "gold"
    NEAR_DUPLICATE = "duplicates"
    REJECTED = "rejects"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One input to check by hand."""

    record: Record
    kind: DisagreementKind
    evidence: str


def find_disagreements(
    records_path: Path, kinds: Iterable[DisagreementKind]
) -> Iterator[Disagreement]:
    """Yield the disagreements of a dataset, each input at most once, kind by kind."""
    seen: set[bytes] = set()
    for kind in kinds:
        for found in _disagreements_of(kind, records_path):
            key = input_key(found.record["text"], found.record["history"])
            if key not in seen:
                seen.add(key)
                yield found


def _disagreements_of(kind: DisagreementKind, records_path: Path) -> Iterator[Disagreement]:
    if kind is DisagreementKind.NEAR_DUPLICATE:
        yield from _near_duplicates(records_path)
        return
    for record in read_records(records_path):
        if evidence := _evidence(record, kind):
            yield Disagreement(record=record, kind=kind, evidence=evidence)


def _evidence(record: Record, kind: DisagreementKind) -> str | None:
    """Why the label of one record is doubtful by itself; None if it is not."""
    votes = record["votes"]
    if kind is DisagreementKind.VOTES and len(votes) > 1:
        return "votes: " + ", ".join(f"{label} {count}" for label, count in votes.items())
    gold, answer = record["gold"], record["teacher_answer"]
    if kind is DisagreementKind.GOLD and None not in (gold, answer) and gold != answer:
        return f"gold says {gold}"
    if kind is DisagreementKind.REJECTED and record["answer"] is None:
        return f"no label: {record['reject_reason']}"
    return None


def _near_duplicates(records_path: Path) -> Iterator[Disagreement]:
    """Inputs whose nearest neighbours have another label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    records = [record for record in read_records(records_path) if record["answer"] is not None]
    if len(records) > MOST_COMPARED:
        logger.warning(
            "near-duplicates are looked for among at most %d inputs; there are %d, so they are "
            "left out: review a part of them, e.g. one written with --max_samples",
            MOST_COMPARED,
            len(records),
        )
        return
    if len(records) < 2:
        return
    texts = [normalise(record["text"]) for record in records]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    index = NearestNeighbors(n_neighbors=min(6, len(records)), metric="cosine").fit(vectors)
    distances, neighbours = index.kneighbors(vectors)
    for row, record in enumerate(records):
        for distance, other in zip(distances[row], neighbours[row], strict=True):
            near = records[other]
            if distance <= 1 - NEAR and near["answer"] != record["answer"]:
                evidence = f"labelled {near['answer']}: {near['text']}"
                kind = DisagreementKind.NEAR_DUPLICATE
                yield Disagreement(record=record, kind=kind, evidence=evidence)
                break


class Corrections:
    """Answers that replace the teacher's."""

    def __init__(
        self, answers: Mapping[bytes, str], *, duplicates: Duplicates, sha256: str | None
    ) -> None:
        self._answers = answers
        self._duplicates: Duplicates = duplicates
        self.sha256 = sha256

    def answer_for(self, text: str, history: Iterable[Mapping[str, Any]]) -> str | None:
        """The person's answer to an input, if there is one."""
        if not self._answers:
            return None
        return self._answers.get(input_key(text, history, duplicates=self._duplicates))


def read_corrections(
    path: Path, task: Task, *, duplicates: Duplicates = "normalised"
) -> Corrections:
    """Read the corrections beside a dataset; a missing file holds none.

    Raises:
        InputError: a line without a text or an answer.
        TaskError: an answer that is none of the task's labels.
    """
    if not path.exists():
        return Corrections({}, duplicates=duplicates, sha256=None)
    answers: dict[bytes, str] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        text, answer = row.get("text"), row.get("answer")
        if not isinstance(text, str) or not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{where}: a correction needs a text and an answer, both strings")
        history = row.get("history") or []
        try:
            key = input_key(encodable(text)[0], history, duplicates=duplicates)
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{where}: history must be a list of turns, each with a role and a content"
            ) from error
        answers[key] = task.require_answer(encodable(answer)[0], where=where)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Corrections(answers, duplicates=duplicates, sha256=digest)
