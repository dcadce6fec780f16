"""From the completions of one input to its label, or to the requests still needed.

One pure function of what is recorded: a run that was killed asks for exactly what an uninterrupted
one would have asked for next.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prompt_distillation.labelling.attempts import Attempt
from prompt_distillation.tasks import Answer, RejectReason, Task

TEMPERATURE_STEP = 0.25
"""Added for each retry: the same prompt at the same temperature tends to fail in the same way."""

HIGHEST_TEMPERATURE = 1.0
"""Retries do not go above it, unless the first attempt already did."""

# 0.55 * 20 is a little more than 11 in floating point.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How completions become a label.

    Attributes:
        thinking: whether the teacher reasons first, so that a text without ``</think>`` is none.
        max_retries: attempts of one vote after its first, while no answer can be read.
        num_votes: completions an input may get; odd numbers avoid ties.
        min_agreement: share of the votes cast that the label needs, in [0, 1].
    """

    thinking: bool = True
    max_retries: int = 3
    num_votes: int = 1
    min_agreement: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A request still needed: its place in the votes, and how it is drawn."""

    vote: int
    attempt: int
    temperature: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the votes of one input came to.

    Attributes:
        answer: the label or text; None if there is none.
        reject_reason: why there is none.
        votes: answer -> how many votes it got, most first.
        cast: votes drawn, those without an answer included.
        agreement: share of the votes drawn that went to the leading answer; 0 without one.
        reasoning: of the first vote for the answer.
        decisive: the attempt that gave the answer, or the last failed one.
        answers: (vote, attempt) -> what was read out of it, of the votes drawn.
    """

    answer: str | None
    reject_reason: RejectReason | None
    votes: Mapping[str, int]
    cast: int
    agreement: float
    reasoning: str | None
    decisive: Attempt
    answers: Mapping[tuple[int, int], Answer]


@dataclass(slots=True)
class _Vote:
    """The attempts of one vote, in order, and what was read out of each."""

    attempts: list[Attempt] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def answer(self) -> Answer:
        """What the vote came to: its last attempt's answer.

        A retry may ask for more tokens than a server has room for: then the attempt before it
        tells why there is no answer.
        """
        refused_retry = self.attempts[-1].refused and len(self.attempts) > 1
        return self.answers[-2 if refused_retry else -1]

    def is_closed(self, policy: Policy) -> bool:
        if not self.attempts:
            return False
        failed_request = self.attempts[-1].completion is None
        return (
            failed_request
            or self.answer.text is not None
            or (len(self.attempts) > policy.max_retries)
        )


class Ballots:
    """Reads completions of one task under one policy.

    Args:
        task: how an answer is read.
        policy: how answers become a label.
        temperature: of a first attempt.
        max_tokens: of a first attempt; each answer cut by length doubles it for the next.
    """

    def __init__(self, task: Task, policy: Policy, *, temperature: float, max_tokens: int) -> None:
        self._task = task
        self._policy = policy
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._first_steps = self._steps(0, self._votes_to_decide(Counter(), 0), {})

    def assess(self, attempts: Sequence[Attempt]) -> Verdict | list[Step]:
        """The verdict on an input's ``attempts``, or the steps that are needed first.

        Votes count in their order, and those after the first ones that decide do not count, so
        that the verdict does not depend on what finished first.
        """
        if not attempts:
            return self._first_steps
        if len(attempts) == 1 and self._policy.num_votes == 1:
            verdict = self._at_once(attempts[0])
            if verdict is not None:
                return verdict
        votes = self._votes_of(attempts)
        counts: Counter[str] = Counter()
        drawn: list[_Vote] = []
        for number in range(self._policy.num_votes):
            vote = votes.get(number)
            if vote is None or not vote.is_closed(self._policy):
                break
            drawn.append(vote)
            if vote.answer.text is not None:
                counts[vote.answer.text] += 1
            if self._votes_to_decide(counts, len(drawn)) == 0:
                return self._verdict(drawn, counts)
        end = len(drawn) + self._votes_to_decide(counts, len(drawn))
        return self._steps(len(drawn), end, votes)

    def _at_once(self, attempt: Attempt) -> Verdict | None:
        """The verdict where the only vote has its answer: nearly every input, so it must be quick.

        None where it takes more than that; then the long way decides.
        """
        answer = self.read(attempt)
        if answer.text is None or (attempt.vote, attempt.attempt) != (0, 0):
            return None
        return Verdict(
            answer=answer.text,
            reject_reason=None,
            votes={answer.text: 1},
            cast=1,
            agreement=1.0,
            reasoning=answer.reasoning,
            decisive=attempt,
            answers={(0, 0): answer},
        )

    def read(self, attempt: Attempt) -> Answer:
        """The answer of one attempt."""
        completion = attempt.completion
        if completion is None:
            return Answer(reject_reason=RejectReason.ENGINE_ERROR)
        return self._task.parse(
            completion.text,
            finish_reason=completion.finish_reason,
            thinking=self._policy.thinking,
            reasoning=completion.reasoning,
        )

    def _votes_of(self, attempts: Iterable[Attempt]) -> dict[int, _Vote]:
        """Votes by number. Of one attempt recorded twice, the first completion counts."""
        found: dict[tuple[int, int], Attempt] = {}
        for attempt in attempts:
            place = (attempt.vote, attempt.attempt)
            if place not in found or found[place].completion is None:
                found[place] = attempt
        votes: dict[int, _Vote] = {}
        for (number, index), attempt in sorted(found.items()):
            vote = votes.setdefault(number, _Vote())
            # An answer ends a vote; attempts after a gap cannot be placed.
            if not vote.is_closed(self._policy) and index == len(vote.attempts):
                vote.attempts.append(attempt)
                vote.answers.append(self.read(attempt))
        return votes

    def _votes_to_decide(self, counts: Counter[str], cast: int) -> int:
        """The fewest further votes that could settle the matter; 0 where it is settled.

        It is settled when no vote still to come can change the label, or bring any up to the
        agreement that is wanted.
        """
        left = self._policy.num_votes - cast
        if left == 0:
            return 0
        (_, first), (_, second) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
        wanted = self._policy.min_agreement * self._policy.num_votes - _ROUNDING
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
            if vote.is_closed(self._policy):
                continue
            retries = len(vote.attempts)
            cuts = sum(
                attempt.completion is not None and attempt.completion.finish_reason == "length"
                for attempt in vote.attempts
            )
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

    def _verdict(self, drawn: list[_Vote], counts: Counter[str]) -> Verdict:
        # most_common keeps the order of first votes among equals.
        ranked = counts.most_common()
        answer, reason, agreement, chosen = None, None, 0.0, drawn[0]
        if ranked:
            answer, leading = ranked[0]
            agreement = leading / len(drawn)
            chosen = next(vote for vote in drawn if vote.answer.text == answer)
            if agreement < self._policy.min_agreement - _ROUNDING:
                answer, reason = None, RejectReason.LOW_AGREEMENT
        else:
            reason = drawn[0].answer.reject_reason
        return Verdict(
            answer=answer,
            reject_reason=reason,
            votes=dict(ranked),
            cast=len(drawn),
            agreement=agreement,
            reasoning=chosen.answer.reasoning,
            decisive=chosen.attempts[-1],
            answers={
                (attempt.vote, attempt.attempt): answer
                for vote in drawn
                for attempt, answer in zip(vote.attempts, vote.answers, strict=True)
            },
        )
