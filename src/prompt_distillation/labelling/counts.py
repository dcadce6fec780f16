"""What a dataset holds, counted while it is built."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from prompt_distillation.data.inputs import Input
from prompt_distillation.labelling.attempts import Attempt
from prompt_distillation.labelling.votes import Verdict


@dataclass(slots=True)
class Counts:
    """Inputs by what became of them, and what they cost.

    Attributes:
        inputs: all of them; ``train + held_out + rejected``.
        duplicates: inputs whose label was taken from an earlier one.
        corrected: inputs with a person's answer.
        labels: label -> inputs, of the labels it was given; free text is not counted by text.
        rejects: reason -> inputs.
        requests: completions and failed requests, retries and votes included.
        retries: requests after a vote's first.
        gold: inputs with a gold label and an answer of the teacher's.
        gold_correct: of those, the ones the teacher got right.
        disputed: inputs whose votes were not all for one answer.
        prompt_tokens: of all requests, cached or not.
        cached_tokens: of them, from the prefix cache.
        seconds: of all requests, added up; many ran at once.
    """

    inputs: int = 0
    train: int = 0
    held_out: int = 0
    rejected: int = 0
    duplicates: int = 0
    corrected: int = 0
    disputed: int = 0
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

    def add_input(
        self, item: Input, verdict: Verdict, answer: str | None, *, held_out: bool,
        is_duplicate: bool,
    ) -> None:  # fmt: skip
        """Count one input; ``answer`` is the one that is written, a person's or the teacher's."""
        self.inputs += 1
        self.duplicates += is_duplicate
        self.disputed += len(verdict.votes) > 1
        self.corrected += answer is not None and answer != verdict.answer
        if item.gold is not None and verdict.answer is not None:
            self.gold += 1
            self.gold_correct += verdict.answer == item.gold
        if answer is None:
            self.rejected += 1
            self.rejects[str(verdict.reject_reason)] += 1
            return
        if answer in self.labels:
            self.labels[answer] += 1
        if held_out:
            self.held_out += 1
        else:
            self.train += 1

    def add_attempts(self, attempts: Iterable[Attempt]) -> None:
        """Count what one piece of work cost."""
        for attempt in attempts:
            self.requests += 1
            self.retries += attempt.attempt > 0
            completion = attempt.completion
            if completion is not None:
                self.prompt_tokens += completion.prompt_tokens
                self.cached_tokens += completion.cached_tokens or 0
                self.completion_tokens += completion.completion_tokens
                self.seconds += completion.seconds

    def as_dict(self) -> dict[str, object]:
        """The counts as JSON can hold them."""
        # dataclasses.asdict breaks on a Counter before Python 3.12.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in values.items()
        }
