"""What improving a student brought: the layout of ``improve.json``. Shares are in [0, 1]."""

from dataclasses import dataclass

from prompt_distillation.data.intervals import Estimate

IMPROVE_FILE = "improve.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round brought; number 0 is the student to begin with.

    Attributes:
        student: its folder.
        asked: inputs that the teacher was asked to label.
        new_rows: of them, those with an answer, which were trained on.
        old_rows: earlier training rows that were repeated.
        teacher_tokens: that the teacher wrote in this round.
        score: on the held-out inputs, with its 95 % interval.
        gain: over the student of round ``compared_with``, the last whose gain is above the noise:
            paired by input, with its 95 % bootstrap interval.
    """

    number: int
    student: str
    score: Estimate
    asked: int = 0
    new_rows: int = 0
    old_rows: int = 0
    teacher_tokens: int = 0
    gain: Estimate | None = None
    compared_with: int = 0

    @property
    def is_better(self) -> bool:
        """Whether the gain is above the noise."""
        return (
            self.gain is not None and self.gain.interval is not None and self.gain.interval.low > 0
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Improvement:
    """The result of improving a student.

    Attributes:
        metric: what the score is: ``accuracy``, or ``chrF`` for texts.
        held_out: inputs with a known answer that each student was measured on.
        stopped: why there is no further round; None while there is.
        total_gain: of `best` over the student to begin with; None if that is the best.
    """

    metric: str
    held_out: int
    rounds: tuple[Round, ...]
    stopped: str | None
    total_gain: Estimate | None = None

    @property
    def best(self) -> Round:
        """The round with the highest score on the held-out inputs, the earliest of equals."""
        return max(self.rounds, key=lambda one: one.score.value)
