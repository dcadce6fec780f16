"""From the journal to the dataset: every file in the order of the inputs, whole or not at all."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import orjson

from prompt_distillation.data.dataset_files import DatasetPaths
from prompt_distillation.data.files import atomic_writer, write_json
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.splits import is_held_out, shard_of
from prompt_distillation.errors import InputError
from prompt_distillation.labelling.attempts import Attempt
from prompt_distillation.labelling.corrections import Corrections
from prompt_distillation.labelling.counts import Counts
from prompt_distillation.labelling.journal import Journal
from prompt_distillation.labelling.keys import ContentKeys
from prompt_distillation.labelling.votes import Ballots, Verdict

MakeManifest = Callable[[Counts, str], Mapping[str, object]]
"""From the counts and the dataset's SHA-256 to the manifest."""


class UnfinishedError(InputError):
    """Inputs without a verdict stand in the way of a dataset.

    Attributes:
        by_shard: shard -> how many of its inputs there are.
    """

    def __init__(self, by_shard: Counter[int]) -> None:
        super().__init__(
            f"{by_shard.total()} inputs have no label in the journal: the input file changed "
            "during the run; run the same command again"
        )
        self.by_shard = by_shard


class DatasetBuilder:
    """Writes the files of one dataset.

    Args:
        paths: where they go.
        journal: what the teacher wrote.
        keys: of the inputs.
        ballots: how completions become labels.
        corrections: a person's answers, which go before the teacher's.
        held_out: share of the groups kept out of training, and the seed of that choice.
        labels: the task's; none for free text.
        num_shards: how the work was cut, to say which part is not finished.
    """

    def __init__(  # noqa: PLR0913 - the parts of the work; bundling them would only hide them
        self,
        *,
        paths: DatasetPaths,
        journal: Journal,
        keys: ContentKeys,
        ballots: Ballots,
        corrections: Corrections,
        held_out: tuple[float, int],
        labels: Iterable[str],
        num_shards: int = 1,
    ) -> None:
        self._paths = paths
        self._journal = journal
        self._keys = keys
        self._ballots = ballots
        self._corrections = corrections
        self._held_out_share, self._held_out_seed = held_out
        # Which records have been counted: a duplicate must not be paid for twice on paper.
        self._counted = bytearray(len(journal))
        self._counts = Counts(labels=Counter(dict.fromkeys(labels, 0)))
        self._num_shards = num_shards

    def build(self, inputs: Iterable[Input], make_manifest: MakeManifest) -> Counts:
        """Write all files; the dataset itself appears last, so that it is there means all are.

        Raises:
            UnfinishedError: some inputs have no verdict; nothing is written.
            OutputWriteError: a file cannot be written.
        """
        digest = hashlib.sha256()
        with atomic_writer(self._paths.dataset) as dataset:
            with ExitStack() as stack:
                heldout, records, rejects = (
                    stack.enter_context(atomic_writer(path))
                    for path in (self._paths.heldout, self._paths.records, self._paths.rejects)
                )
                missing: Counter[int] = Counter()
                for item in inputs:
                    record = self._record(item)
                    if record is None:
                        missing[shard_of(item.text, num_shards=self._num_shards)] += 1
                        continue
                    records.write(_line(record))
                    answer = record["answer"]
                    if answer is None:
                        rejects.write(_line(_reject_of(record)))
                    elif record["held_out"]:
                        heldout.write(_line(_chat_row(item, answer)))
                    else:
                        line = _line(_chat_row(item, answer))
                        dataset.write(line)
                        digest.update(line.encode())
                if missing:
                    raise UnfinishedError(missing)
            write_json(self._paths.manifest, make_manifest(self._counts, digest.hexdigest()))
        return self._counts

    def _record(self, item: Input) -> dict[str, Any] | None:
        """All that is known about one input, counted on the way; None without a verdict."""
        key = self._keys.of(item)
        # Recorded as they finished; written as they were asked.
        attempts = sorted(self._journal.attempts(key), key=lambda a: (a.vote, a.attempt))
        verdict = self._ballots.assess(attempts)
        if not isinstance(verdict, Verdict):
            return None
        corrected = self._corrections.answer_for(item)
        answer = corrected if corrected is not None else verdict.answer
        held_out = is_held_out(item.group, share=self._held_out_share, seed=self._held_out_seed)
        is_duplicate = self._is_counted(key)
        if not is_duplicate:
            self._counts.add_attempts(attempts)
        self._counts.add_input(item, verdict, answer, held_out=held_out, is_duplicate=is_duplicate)
        completion = verdict.decisive.completion
        cast = sum(verdict.votes.values())
        return {
            "index": item.index,
            "text": item.text,
            "history": item.history,
            "group": item.group,
            "gold": item.gold,
            "held_out": held_out,
            "answer": answer,
            "reject_reason": verdict.reject_reason if answer is None else None,
            "corrected": corrected is not None,
            "teacher_answer": verdict.answer,
            "reasoning": verdict.reasoning,
            "votes": verdict.votes,
            "soft_label": {label: count / cast for label, count in verdict.votes.items()},
            "agreement": verdict.agreement,
            "duplicate": is_duplicate,
            "finish_reason": completion.finish_reason if completion else None,
            "prompt_tokens": sum(a.completion.prompt_tokens for a in attempts if a.completion),
            "completion_tokens": sum(
                a.completion.completion_tokens for a in attempts if a.completion
            ),
            "seconds": sum(a.completion.seconds for a in attempts if a.completion),
            "outputs": [self._output(attempt, verdict) for attempt in attempts],
        }

    def _is_counted(self, key: bytes) -> bool:
        """Whether an earlier input had the same key; it counts as had from now on."""
        first = self._journal.places(key)[0]
        was_counted = bool(self._counted[first])
        self._counted[first] = 1
        return was_counted

    def _output(self, attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
        """One attempt, raw, and what was read out of it."""
        place = (attempt.vote, attempt.attempt)
        read = verdict.answers.get(place) or self._ballots.read(attempt)
        row: dict[str, Any] = {
            "vote": attempt.vote,
            "attempt": attempt.attempt,
            "temperature": attempt.temperature,
            "max_tokens": attempt.max_tokens,
            "answer": read.text,
            "reject_reason": read.reject_reason,
        }
        if attempt.completion is None:
            return row | {"error": attempt.error}
        return row | {
            "text": attempt.completion.text,
            "finish_reason": attempt.completion.finish_reason,
            "completion_tokens": attempt.completion.completion_tokens,
            "seconds": attempt.completion.seconds,
        }


def _reject_of(record: dict[str, Any]) -> dict[str, Any]:
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


def _chat_row(item: Input, answer: str) -> dict[str, Any]:
    """What a student is trained on: the conversation without the prompt, and the answer."""
    return {
        "messages": [
            *item.history,
            {"role": "user", "content": item.text},
            {"role": "assistant", "content": answer},
        ]
    }


def _line(row: Mapping[str, Any]) -> str:
    return orjson.dumps(row).decode() + "\n"
