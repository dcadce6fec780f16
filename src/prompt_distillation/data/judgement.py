"""What a judge concluded: the layout of ``judge.json``. Shares are in [0, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from prompt_distillation.data.intervals import Interval
from prompt_distillation.data.result_files import read_written

JUDGEMENT_FILE = "judge.json"
OVERALL = "overall"

Winner = Literal["student", "teacher", "tie"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share, how sure it is (95 %), and of how many; without a value where there are none."""

    value: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPair:
    """Two answers to one input, and what the judge said of them.

    Attributes:
        index: of the input, as in the results.
        student_first: dimension -> winner, asked with the student's answer in the first place;
            None where the judge gave no verdict that can be read.
        teacher_first: the same with the teacher's answer in the first place.
    """

    index: int
    text: str
    student: str
    teacher: str
    student_first: Mapping[str, str] | None
    teacher_first: Mapping[str, str] | None

    @property
    def is_judged(self) -> bool:
        """Whether both orders have a verdict."""
        return self.student_first is not None and self.teacher_first is not None

    def winner(self, dimension: str) -> Winner | None:
        """The winner that both orders agree on; None where they do not, or one is missing."""
        if self.student_first is None or self.teacher_first is None:
            return None
        one, other = self.student_first[dimension], self.teacher_first[dimension]
        return cast(Winner, one) if one == other else None


@dataclass(frozen=True, kw_only=True, slots=True)
class DimensionVerdicts:
    """The verdicts in one dimension.

    Attributes:
        student: pairs that the student wins in both orders.
        teacher: pairs that the teacher wins in both orders.
        ties: pairs that are a tie in both orders.
        inconsistent: pairs whose verdict changes with the order; they count for nobody.
        win_rate: of the student over the consistent pairs; a tie is half a win.
        length_controlled: the win rate that is expected of answers of equal length.
        first_place: share of the single verdicts for one side that chose the first place: 0.5
            without position bias.
        longer: share of the consistent verdicts for one side that chose the longer answer.
    """

    name: str
    student: int
    teacher: int
    ties: int
    inconsistent: int
    win_rate: Share
    length_controlled: Share
    first_place: Share
    longer: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonAgreement:
    """The judge's consistent overall verdicts against a person's.

    Attributes:
        alpha: Krippendorff's, nominal; None where all verdicts are the same.
        without_verdict: inputs with a person's verdict on which the judge has no consistent one.
    """

    agreement: Share
    alpha: float | None
    without_verdict: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a judge concluded.

    Attributes:
        verdicts: of each dimension, the last one overall.
        identical: pairs of equal answers: ties, without asking.
        without_answer: inputs on which one of the two gave no answer; not judged.
        too_long: inputs whose question and answers are too long to be asked; not judged.
        without_verdict: pairs on which the judge gave no verdict that can be read in some order.
        characters: mean length of the student's and of the teacher's answers.
        rubric: what the judge was asked to go by.
    """

    judge: str
    student_file: str
    teacher_file: str
    verdicts: tuple[DimensionVerdicts, ...]
    identical: int
    without_answer: int
    too_long: int
    without_verdict: int
    characters: tuple[float, ...]
    person: PersonAgreement | None
    rubric: str
    timestamp: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    provenance: Mapping[str, Any]
    pairs: tuple[JudgedPair, ...]

    @property
    def overall(self) -> DimensionVerdicts:
        """The verdicts on the answers as a whole."""
        return self.verdicts[-1]

    def __repr__(self) -> str:
        rate = self.overall.win_rate
        share = "none" if rate.value is None else f"{rate.value:.4f} of {rate.n}"
        return f"Judgement(judge={self.judge!r}, pairs={len(self.pairs)}, win_rate={share})"


def read_judgement(path: Path) -> Judgement:
    """Read a ``judge.json``.

    Raises:
        InputError: no such file, or not a judgement.
    """
    return read_written(path, Judgement, by="judge.py")
