"""From the completions of one input to its label, or to the requests still needed.

One pure function of what is recorded: a run that was killed asks for exactly what an uninterrupted
one would have asked for next.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prompt_distillation.config.label_config import LabelConfig, VoteConfig
from prompt_distillation.labelling.journal import Attempt
from prompt_distillation.tasks import Answer, RejectReason, Task, VoteCount

TEMPERATURE_STEP = 0.25
"""Added for each retry: the same prompt at the same temperature tends to fail in the same way."""

HIGHEST_TEMPERATURE = 1.0
"""Retries do not go above it, unless the first attempt already did."""

# 0.55 * 20 is a little more than 11 in floating point.
_ROUNDING = 1e-9


class ReadAttempt(NamedTuple):
    """An attempt, and what was read out of it."""

    attempt: Attempt
    answer: Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A request still needed: its place in the votes, and how it is drawn."""

    vote: int
    attempt: int
    temperature: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of the votes on one input.

    Attributes:
        answer: the label or text; None if there is none.
        votes: answer -> how many votes it got, most first.
        cast: votes drawn, those without an answer included.
        agreement: share of the votes drawn that went to the leading answer, or to its least agreed
            part where parts are voted on; 0 without one.
        reasoning: of the first vote for the answer; None where it was put together from parts.
        decisive: the attempt that gave the answer (or the most frequent one), or the last failed
            one.
    """

    answer: str | None
    reject_reason: RejectReason | None
    votes: Mapping[str, int]
    cast: int
    agreement: float
    reasoning: str | None
    decisive: Attempt


@dataclass(slots=True)
class _Vote:
    """The attempts of one vote, in order."""

    attempts: list[ReadAttempt] = field(default_factory=list)

    @property
    def result(self) -> ReadAttempt:
        """The result of the vote: its last attempt.

        A retry may ask for more tokens than a server has room for: then the attempt before it
        says why there is no answer.
        """
        refused_retry = self.attempts[-1].attempt.refused and len(self.attempts) > 1
        return self.attempts[-2 if refused_retry else -1]

    def is_closed(self, config: VoteConfig) -> bool:
        if not self.attempts:
            return False
        attempt, answer = self.attempts[-1]
        failed_request = attempt.completion is None
        return failed_request or answer.text is not None or len(self.attempts) > config.max_retries


class Votes:
    """Reads the completions of one task, and decides what they come to."""

    def __init__(self, task: Task, config: LabelConfig) -> None:
        self._task = task
        self._config = config.votes
        self._temperature = config.sampling.temperature
        self._max_tokens = config.max_tokens
        self._first_steps = self._steps(0, self._votes_to_decide(None, 0), {})

    def read(self, attempt: Attempt) -> ReadAttempt:
        """Read the answer of one attempt."""
        completion = attempt.completion
        if completion is None:
            return ReadAttempt(attempt, Answer(reject_reason=RejectReason.ENGINE_ERROR))
        answer = self._task.parse(
            completion.text,
            finish_reason=completion.finish_reason,
            thinking=self._config.thinking,
            reasoning=completion.reasoning,
        )
        return ReadAttempt(attempt, answer)

    def assess(self, attempts: Sequence[ReadAttempt]) -> Verdict | list[Step]:
        """The verdict on an input's ``attempts``, or the steps that are needed first.

        Votes count in their order, and those after the first ones that decide do not count, so
        that the verdict does not depend on what finished first.
        """
        if not attempts:
            return self._first_steps
        if len(attempts) == self._config.num_votes == 1:
            attempt, answer = attempts[0]
            if answer.text is not None and attempt.vote == attempt.attempt == 0:
                # Nearly every input: the long way below comes to the same, more slowly.
                return Verdict(
                    answer=answer.text,
                    reject_reason=None,
                    votes={answer.text: 1},
                    cast=1,
                    agreement=1.0,
                    reasoning=answer.reasoning,
                    decisive=attempt,
                )
        votes = self._votes_of(attempts)
        answers: list[str] = []
        count: VoteCount | None = None
        drawn: list[_Vote] = []
        for number in range(self._config.num_votes):
            vote = votes.get(number)
            if vote is None or not vote.is_closed(self._config):
                break
            drawn.append(vote)
            if vote.result.answer.text is not None:
                answers.append(vote.result.answer.text)
                count = self._task.answers.count_votes(answers)
            if self._votes_to_decide(count, len(drawn)) == 0:
                return self._verdict(drawn, answers, count)
        end = len(drawn) + self._votes_to_decide(count, len(drawn))
        return self._steps(len(drawn), end, votes)

    def _votes_of(self, attempts: Sequence[ReadAttempt]) -> dict[int, _Vote]:
        """Votes by number. Of one attempt recorded twice, the first completion counts."""
        found: dict[tuple[int, int], ReadAttempt] = {}
        for read in attempts:
            place = (read.attempt.vote, read.attempt.attempt)
            if place not in found or found[place].attempt.completion is None:
                found[place] = read
        votes: dict[int, _Vote] = {}
        for (number, index), read in sorted(found.items()):
            vote = votes.setdefault(number, _Vote())
            # An answer ends a vote; attempts after a gap cannot be placed.
            if not vote.is_closed(self._config) and index == len(vote.attempts):
                vote.attempts.append(read)
        return votes

    def _votes_to_decide(self, count: VoteCount | None, cast: int) -> int:
        """The fewest further votes that could settle the matter; 0 where it is settled.

        It is settled when no vote still to come can change the answer, or bring any up to the
        agreement that is wanted.
        """
        tallies: Sequence[Mapping[str | None, int]] = count.tallies if count else ({},)
        return max(self._votes_to_settle(tally, cast) for tally in tallies)

    def _votes_to_settle(self, tally: Mapping[str | None, int], cast: int) -> int:
        left = self._config.num_votes - cast
        if left == 0:
            return 0
        first, second = sorted((*tally.values(), 0, 0), reverse=True)[:2]
        wanted = self._config.min_agreement * self._config.num_votes - _ROUNDING
        for more in range(left):
            won = first + more > second + left - more and first + more >= wanted
            lost = first + left - more < wanted
            if won or lost:
                return more
        return left

    def _steps(self, start: int, end: int, votes: Mapping[int, _Vote]) -> list[Step]:
        steps = []
        for number in range(start, end):
            vote = votes.get(number, _Vote())
            if vote.is_closed(self._config):
                continue
            retries = len(vote.attempts)
            completions = (read.attempt.completion for read in vote.attempts)
            cuts = sum(made is not None and made.finish_reason == "length" for made in completions)
            highest = max(HIGHEST_TEMPERATURE, self._temperature)
            steps.append(
                Step(
                    vote=number,
                    attempt=retries,
                    temperature=min(self._temperature + TEMPERATURE_STEP * retries, highest),
                    max_tokens=self._max_tokens << cuts,
                )
            )
        return steps

    def _verdict(self, drawn: list[_Vote], answers: list[str], count: VoteCount | None) -> Verdict:
        # most_common keeps the order of first votes among equals.
        ranked = Counter(answers).most_common()
        answer, reason, agreement, reasoning, chosen = None, None, 0.0, None, drawn[0]
        if count is not None:
            answer = count.winner
            agreement = min(max(tally.values()) for tally in count.tallies) / len(drawn)
            written = answer if answer in answers else ranked[0][0]
            chosen = next(vote for vote in drawn if vote.result.answer.text == written)
            reasoning = chosen.result.answer.reasoning if answer == written else None
            if agreement < self._config.min_agreement - _ROUNDING:
                answer, reason = None, RejectReason.LOW_AGREEMENT
        else:
            reason = drawn[0].result.answer.reject_reason
            reasoning = drawn[0].result.answer.reasoning
        return Verdict(
            answer=answer,
            reject_reason=reason,
            votes=dict(ranked),
            cast=len(drawn),
            agreement=agreement,
            reasoning=reasoning,
            decisive=chosen.attempts[-1].attempt,
        )
