"""From verdicts to the dataset: every file in the order of the inputs, whole or not at all."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Self, cast

import orjson

from prompt_distillation.data.dataset_files import DatasetPaths, Record, RecordedOutput, Reject
from prompt_distillation.data.files import atomic_writer, write_json
from prompt_distillation.labelling.disagreements import Corrections
from prompt_distillation.labelling.input_spool import InputSpool, Spool, WorkItem
from prompt_distillation.labelling.soft_labels import SoftLabelWriter, votes_with_logprobs
from prompt_distillation.labelling.votes_and_retries import ReadAttempt, Verdict

VOTES = "votes_with_logprobs"
"""Key of what an outcome holds for soft labels; no record has it."""

MakeManifest = Callable[["Counts", str], Mapping[str, object]]
"""From the counts and the dataset's SHA-256 to the manifest."""

MakeSoftLabels = Callable[[IO[bytes]], SoftLabelWriter]
"""From the open file to what writes it."""


@dataclass(slots=True)
class Counts:
    """Inputs by what became of them, and what they cost.

    Attributes:
        inputs: all of them; ``train + held_out + rejected``.
        duplicates: inputs whose label was taken from an earlier one.
        disagreements: inputs whose votes were not all for one answer.
        repaired: answers with half characters, which were replaced.
        labels: label -> inputs, of the labels it was given; free text is not counted by text.
        requests: completions and failed requests, retries and votes included.
        retries: requests after a vote's first.
        gold: inputs with a gold label and an answer of the teacher's.
        gold_correct: of those, the ones the teacher got right.
        prompt_tokens: of all requests, cached or not.
        cached_tokens: of them, from the prefix cache.
        seconds: of all requests, added up; many ran at once.
        logprob_tokens: tokens whose log-probabilities are kept, of all votes.
        logprob_bytes: of the file with them.
    """

    inputs: int = 0
    train: int = 0
    held_out: int = 0
    rejected: int = 0
    duplicates: int = 0
    corrected: int = 0
    disagreements: int = 0
    repaired: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    gold: int = 0
    gold_correct: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    logprob_tokens: int = 0
    logprob_bytes: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The counts of a manifest, perhaps of another version."""
        counts = cls(
            **{item.name: values[item.name] for item in fields(cls) if item.name in values}
        )
        counts.labels, counts.rejects = Counter(counts.labels), Counter(counts.rejects)
        return counts

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        # dataclasses.asdict breaks on a Counter before Python 3.12.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"labels": dict(self.labels), "rejects": dict(self.rejects)}

    def add(self, record: Record) -> None:
        """Count one input."""
        self.inputs += 1
        self.disagreements += len(record["votes"]) > 1
        gold, answer, teacher = record["gold"], record["answer"], record["teacher_answer"]
        self.corrected += answer is not None and answer != teacher
        if gold is not None and teacher is not None:
            self.gold += 1
            self.gold_correct += teacher == gold
        if answer is None:
            self.rejected += 1
            self.rejects[str(record["reject_reason"])] += 1
        else:
            self.held_out += record["held_out"]
            self.train += not record["held_out"]
            if answer in self.labels:
                self.labels[answer] += 1
        if record["duplicate"]:  # paid for once
            self.duplicates += 1
        else:
            self.add_cost(record)

    def add_cost(self, outcome: Mapping[str, Any]) -> None:
        """Count what the answer to one input cost."""
        for output in outcome["outputs"]:
            self.requests += 1
            self.retries += output["attempt"] > 0
            self.repaired += output.get("repaired", False)
        self.prompt_tokens += outcome["prompt_tokens"]
        self.cached_tokens += outcome["cached_tokens"]
        self.completion_tokens += outcome["completion_tokens"]
        self.seconds += outcome["seconds"]


class Outcomes(Spool):
    """What came of each distinct input, kept until the dataset is written.

    Memory: about 100 bytes an input; the texts are spooled to the disk.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._numbers: dict[bytes, int] = {}
        self._places = array("Q")
        self._taken = bytearray()

    def __contains__(self, key: bytes) -> bool:
        return key in self._numbers

    def add(self, key: bytes, verdict: Verdict, attempts: Sequence[ReadAttempt]) -> None:
        """Keep a verdict, and the attempts that it was made of."""
        self._numbers[key] = len(self._places)
        self._places.append(self.append(_outcome(verdict, attempts)))
        self._taken.append(0)

    def take(self, key: bytes) -> tuple[dict[str, Any], bool]:
        """What came of an input, and whether it was taken before, by an input with the same key."""
        number = self._numbers[key]
        was_taken = bool(self._taken[number])
        self._taken[number] = 1
        return self.read(self._places[number]), was_taken


def _outcome(verdict: Verdict, attempts: Sequence[ReadAttempt]) -> dict[str, Any]:
    """The part of a record that the teacher decides."""
    # Recorded as they finished; written as they were asked.
    ordered = sorted(attempts, key=lambda read: (read.attempt.vote, read.attempt.attempt))
    prompt_tokens, cached_tokens, completion_tokens, seconds = 0, 0, 0, 0.0
    for read in ordered:
        if made := read.attempt.completion:
            prompt_tokens += made.prompt_tokens
            cached_tokens += made.cached_tokens or 0
            completion_tokens += made.completion_tokens
            seconds += made.seconds
    votes = sum(verdict.votes.values())
    completion = verdict.decisive.completion
    return {
        "reject_reason": verdict.reject_reason,
        "teacher_answer": verdict.answer,
        "reasoning": verdict.reasoning,
        "votes": verdict.votes,
        "soft_label": {label: count / votes for label, count in verdict.votes.items()},
        "agreement": verdict.agreement,
        "finish_reason": completion.finish_reason if completion else None,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": cached_tokens,
        "completion_tokens": completion_tokens,
        "seconds": seconds,
        "outputs": [_output(read) for read in ordered],
        VOTES: votes_with_logprobs(verdict, ordered),
    }


def _output(read: ReadAttempt) -> RecordedOutput:
    attempt, answer = read
    row: RecordedOutput = {
        "vote": attempt.vote,
        "attempt": attempt.attempt,
        "temperature": attempt.temperature,
        "max_tokens": attempt.max_tokens,
        "answer": answer.text,
        "reject_reason": answer.reject_reason,
    }
    if attempt.completion is None:
        row["error"] = attempt.error
        return row
    row["text"] = attempt.completion.text
    row["finish_reason"] = attempt.completion.finish_reason
    row["completion_tokens"] = attempt.completion.completion_tokens
    row["seconds"] = attempt.completion.seconds
    if attempt.completion.repaired:
        row["repaired"] = True
    return row


def write_dataset(
    paths: DatasetPaths,
    inputs: InputSpool,
    outcomes: Outcomes,
    *,
    corrections: Corrections,
    labels: Iterable[str],
    make_manifest: MakeManifest,
    soft_labels: MakeSoftLabels | None = None,
) -> Counts:
    """Write all files; the dataset is renamed into place last, so where it exists, all do."""
    counts = Counts(labels=Counter(dict.fromkeys(labels, 0)))
    digest = hashlib.sha256()
    with atomic_writer(paths.dataset) as dataset:
        with ExitStack() as stack:
            heldout, records, rejects = (
                stack.enter_context(atomic_writer(path))
                for path in (paths.heldout, paths.records, paths.rejects)
            )
            soft = None
            if soft_labels is not None:
                soft = soft_labels(stack.enter_context(atomic_writer(paths.logprobs, "wb")))
            for item in inputs:
                outcome, is_duplicate = outcomes.take(item.key)
                votes = outcome.pop(VOTES)
                record = _record(item, outcome, corrections, is_duplicate=is_duplicate)
                counts.add(record)
                if soft is not None:
                    soft.add(record, votes)
                records.write(_line(record))
                if record["answer"] is None:
                    rejects.write(_line(_reject_of(record)))
                elif record["held_out"]:
                    heldout.write(_line(_chat_row(record)))
                else:
                    line = _line(_chat_row(record))
                    dataset.write(line)
                    digest.update(line.encode())
            if soft is not None:
                counts.logprob_tokens, counts.logprob_bytes = soft.close()
        if soft_labels is None:
            paths.logprobs.unlink(missing_ok=True)  # of an earlier dataset
        write_json(paths.manifest, make_manifest(counts, digest.hexdigest()))
    return counts


def _record(
    item: WorkItem, outcome: Mapping[str, Any], corrections: Corrections, *, is_duplicate: bool
) -> Record:
    corrected = corrections.answer_for(item.input.text, item.input.history)
    answer = outcome["teacher_answer"] if corrected is None else corrected
    row = {
        "index": item.input.index,
        "text": item.input.text,
        "history": item.input.history,
        "group": item.input.group,
        "gold": item.input.gold,
        "held_out": item.held_out,
        "answer": answer,
        **outcome,
        "corrected": corrected is not None,
        "duplicate": is_duplicate,
    }
    if answer is not None:
        row["reject_reason"] = None
    return cast(Record, row)


def _reject_of(record: Record) -> Reject:
    last = record["outputs"][-1]
    return {
        "index": record["index"],
        "text": record["text"],
        "group": record["group"],
        "gold": record["gold"],
        "reason": record["reject_reason"],
        "error": last.get("error"),
        "votes": record["votes"],
        "attempts": len(record["outputs"]),
        "last_output": last.get("text"),
    }


def _chat_row(record: Record) -> dict[str, Any]:
    """What a student is trained on: the conversation without the prompt, and the answer."""
    return {
        "messages": [
            *record["history"],
            {"role": "user", "content": record["text"]},
            {"role": "assistant", "content": record["answer"]},
        ]
    }


def _line(row: object) -> str:
    return orjson.dumps(row).decode() + "\n"
