"""Labels that something speaks against, found in a dataset's records."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.splits import input_key, normalise

logger = logging.getLogger(__name__)

MOST_COMPARED = 20_000
"""Inputs among which near-duplicates are looked for: every one is compared with every other."""

NEAR = 0.8
"""Cosine of two texts' character n-grams from which they are near-duplicates."""


class Doubt(StrEnum):
    """What speaks against a label."""

    VOTES = "votes"
    GOLD = "gold"
    NEAR_DUPLICATE = "duplicates"
    REJECTED = "rejects"


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """One input to look at again.

    Attributes:
        record: its row of ``NAME.records.jsonl``.
        doubt: what speaks against its label.
        evidence: the same in words.
    """

    record: dict[str, Any]
    doubt: Doubt
    evidence: str


def find_disputes(records_path: Path, doubts: Iterable[Doubt]) -> Iterator[Dispute]:
    """Yield the disputes of a dataset, each input at most once, by doubt in the order given.

    Raises:
        InputError: there are no records.
    """
    seen: set[bytes] = set()
    for doubt in doubts:
        for dispute in _disputes_by(doubt, records_path):
            key = input_key(dispute.record["text"], dispute.record.get("history") or ())
            if key not in seen:
                seen.add(key)
                yield dispute


def _disputes_by(doubt: Doubt, records_path: Path) -> Iterator[Dispute]:
    if doubt is Doubt.NEAR_DUPLICATE:
        yield from _near_duplicates(records_path)
        return
    for _, record in read_jsonl(records_path):
        if evidence := _evidence(record, doubt):
            yield Dispute(record=record, doubt=doubt, evidence=evidence)


def _evidence(record: dict[str, Any], doubt: Doubt) -> str | None:
    """What speaks against one record's label by itself; None if nothing does."""
    votes = record["votes"]
    if doubt is Doubt.VOTES and len(votes) > 1:
        return "votes: " + ", ".join(f"{label} {count}" for label, count in votes.items())
    gold, answer = record["gold"], record["teacher_answer"]
    if doubt is Doubt.GOLD and gold is not None and answer is not None and gold != answer:
        return f"gold says {gold}"
    if doubt is Doubt.REJECTED and record["answer"] is None:
        return f"no label: {record['reject_reason']}"
    return None


def _near_duplicates(records_path: Path) -> Iterator[Dispute]:
    """Inputs whose nearest neighbours have another label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    records = [record for _, record in read_jsonl(records_path) if record["answer"] is not None]
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
                yield Dispute(record=record, doubt=Doubt.NEAR_DUPLICATE, evidence=evidence)
                break
