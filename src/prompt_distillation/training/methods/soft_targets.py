"""What the teacher says of each token that a student is trained to write: a mixture of its votes.

At place *j* of a row's answer *y*, the teacher's distribution of the next token given the tokens
before it is wanted. Each vote is one draw of its reasoning and answer, so the mean over the votes
whose answers begin with the same *j* tokens is an unbiased estimate of it. A vote for another
answer thus counts up to, and at, the first token in which it differs.

- **tokens**: the votes' own distributions. The answer that a student learns to write and what the
  teacher wrote are aligned by token ids; where a token of the answer is not found, as after a
  change of white space, that vote says nothing about it.
- **labels**: the mean of the votes' distributions over labels, laid out over the student's own
  tokens of each label. Nothing is left over, and the vocabularies need not agree.

A token without a distribution is trained by cross-entropy.
"""

import difflib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prompt_distillation.data.answer_logprobs import LogprobsFile, VoteRow, context_key
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import InputError
from prompt_distillation.training.encode import EncodedRow, until_end_of_turn
from prompt_distillation.training.loading import PreparedRun

logger = logging.getLogger(__name__)

NO_TOKEN = -1

Distribution = Mapping[int, float]
"""Token id -> probability; what is missing to 1 belongs to all other tokens."""


@dataclass(frozen=True, slots=True)
class SoftTarget:
    """What is known of each trained token of one row.

    Attributes:
        ids: int32, tokens x candidates; `NO_TOKEN` where there are fewer, and in the whole line of
            a token of which nothing is known.
        probabilities: float32, as ``ids``.
        rest: float32, a number a token: the probability of all other tokens together.
    """

    ids: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]

    @classmethod
    def of(cls, distributions: Sequence[Distribution | None]) -> "SoftTarget":
        """Pack a distribution, or None, for each token."""
        width = max([len(found) for found in distributions if found] + [1])
        ids = np.full((len(distributions), width), NO_TOKEN, dtype=np.int32)
        probabilities = np.zeros((len(distributions), width), dtype=np.float32)
        rest = np.zeros(len(distributions), dtype=np.float32)
        for place, found in enumerate(distributions):
            if found:
                ids[place, : len(found)] = list(found)
                probabilities[place, : len(found)] = list(found.values())
                rest[place] = max(0.0, 1.0 - sum(found.values()))
        return cls(ids, probabilities, rest)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Of which tokens there is a distribution."""
        found: npt.NDArray[np.bool_] = self.ids[:, 0] != NO_TOKEN
        return found


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """Those of all rows.

    Attributes:
        rows: in the order of the encoded rows.
        votes: that were read.
    """

    rows: list[SoftTarget]
    votes: int

    def counts(self) -> dict[str, Any]:
        """For the manifest: how much is known, and how much of it the candidates hold."""
        known = [target.known for target in self.rows]
        rest = np.concatenate([t.rest[k] for t, k in zip(self.rows, known, strict=True)])
        return {
            "votes": self.votes,
            "rows_with_targets": int(sum(k.any() for k in known)),
            "tokens_with_targets": int(sum(k.sum() for k in known)),
            "mean_mass": round(float(1 - rest.mean()), 6),
        }


def read_targets(file: LogprobsFile, run: PreparedRun, *, by_labels: bool) -> SoftTargets:
    """Read the targets of all rows that a run trains on.

    Raises:
        InputError: the file holds nothing of any of them.
    """
    keys = [context_key(row.context) for row in run.rows.rows]
    wanted = set(keys)
    votes: dict[bytes, list[VoteRow]] = defaultdict(list)
    for vote in file.rows():
        if vote.key in wanted:
            votes[vote.key].append(vote)
    answers = AnswerIds(run)
    targets = []
    for row, key in zip(run.rows.rows, keys, strict=True):
        if by_labels:
            found = label_targets(row, votes.get(key, []), file.labels, answers)
        else:
            found = token_targets(row, votes.get(key, []), answers, top=file.top)
        targets.append(SoftTarget.of(found))
    _tell_what_is_missing(file, run, targets)
    return SoftTargets(targets, votes=sum(map(len, votes.values())))


def _tell_what_is_missing(
    file: LogprobsFile, run: PreparedRun, targets: Sequence[SoftTarget]
) -> None:
    without = sum(not target.known.any() for target in targets)
    if without == len(targets):
        raise InputError(
            f"{file.path} says nothing of any row of {run.config.train_file}: it was written with "
            "another dataset, or the teacher wrote its answers in other words; label again with "
            "create_data.py --top_logprobs 20 --overwrite, or use --method sft"
        )
    known = sum(int(target.known.sum()) for target in targets)
    tokens = sum(len(target.known) for target in targets)
    if known < tokens / 2:
        logger.warning(
            "only %d of %d answer tokens have probabilities: the teacher wrote the others "
            "otherwise%s", known, tokens,
            "; --soft_targets labels needs no tokens in common" if file.labels else "",
        )  # fmt: skip
    if without:
        logger.warning(
            "%d of %d rows have no probabilities in %s (a person's answers have none) and are "
            "trained by cross-entropy", without, len(targets), file.path,
        )  # fmt: skip


class AnswerIds:
    """The student's token ids of any answer to a row, its end of turn included.

    What a template writes around an answer seldom depends on the conversation before it. Where it
    does, they differ from the row's own ids, and there is no target from there on.
    """

    def __init__(self, run: PreparedRun) -> None:
        self._encoder = PromptEncoder(run.tokenizer, model=run.tokenizer.name_or_path)
        # The rows are encoded: each ends with the end of a turn.
        self._ends = frozenset(row.input_ids[-1] for row in run.rows.rows)
        self._default = run.tokenizer.eos_token_id
        self._known: dict[tuple[str, ...], list[int]] = {}

    def of(self, row: EncodedRow, answer: str) -> list[int]:
        """Token ids of ``answer``, as a student would be trained to write it after this row."""
        roles = (answer, *(turn["role"] for turn in row.context))
        if roles not in self._known:
            self._known[roles] = self._encode(row, answer)
        return self._known[roles]

    def _encode(self, row: EncodedRow, answer: str) -> list[int]:
        _, ids = self._encoder.encode_example(row.context, {"role": "assistant", "content": answer})
        return until_end_of_turn(ids, self._ends, default=self._default)


def token_targets(
    row: EncodedRow, votes: Sequence[VoteRow], answers: AnswerIds, *, top: int
) -> list[Distribution | None]:
    """Of each trained token, the mean distribution of the votes that agree up to it."""
    trained = row.trained
    found: list[list[Distribution]] = [[] for _ in trained]
    for vote in votes:
        ids = answers.of(row, vote.answer)
        places = aligned(ids, vote.written)
        distributions = _distributions(vote, top)
        for place in range(min(len(trained), len(ids))):
            if place in places:
                found[place].append(distributions[places[place]])
            if ids[place] != trained[place]:
                break
    return [_mean(given) if given else None for given in found]


def aligned(ids: Sequence[int], written: Sequence[int]) -> dict[int, int]:
    """Where the tokens of an answer stand in what the teacher wrote: place -> place.

    >>> aligned([7, 8, 9], [1, 7, 8, 9])
    {0: 1, 1: 2, 2: 3}
    >>> aligned([7, 8, 9], [7, 5, 9])
    {0: 0, 2: 2}
    """
    before = len(written) - len(ids)
    if before >= 0 and list(written[before:]) == list(ids):
        return {place: before + place for place in range(len(ids))}
    blocks = difflib.SequenceMatcher(None, ids, written, autojunk=False).get_matching_blocks()
    return {block.a + n: block.b + n for block in blocks for n in range(block.size)}


def _distributions(vote: VoteRow, top: int) -> list[Distribution]:
    """Of each written token; the rounded probabilities are scaled to the exact mass."""
    ids = np.asarray(vote.ids, dtype=np.int32).reshape(-1, top)
    values = np.exp(np.asarray(vote.logprobs, dtype=np.float64)).reshape(-1, top)
    values *= (np.asarray(vote.mass) / values.sum(axis=1))[:, None]
    return [
        {token: share for token, share in zip(row, shares, strict=True) if token != NO_TOKEN}
        for row, shares in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _mean(distributions: Sequence[Distribution]) -> Distribution:
    total: dict[int, float] = defaultdict(float)
    for distribution in distributions:
        for token, share in distribution.items():
            total[token] += share / len(distributions)
    return total


def label_targets(
    row: EncodedRow, votes: Sequence[VoteRow], labels: Sequence[str], answers: AnswerIds
) -> list[Distribution | None]:
    """Of each trained token, the share of the labels that go on with each next token."""
    trained = row.trained
    shares = [vote.labels for vote in votes if vote.labels]
    if not shares:
        return [None] * len(trained)
    means = np.mean(np.asarray(shares, dtype=np.float64), axis=0).tolist()
    ways = [(answers.of(row, label), share) for label, share in zip(labels, means, strict=True)]
    found: list[Distribution | None] = []
    for place in range(len(trained)):
        going_on: dict[int, float] = defaultdict(float)
        for ids, share in ways:
            if ids[:place] == trained[:place] and place < len(ids) and share > 0:
                going_on[ids[place]] += share
        total = sum(going_on.values())
        found.append({token: share / total for token, share in going_on.items()} or None)
    return found
