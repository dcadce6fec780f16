"""What label probabilities show, as records: reliability, coverage, and the cascade."""

from dataclasses import dataclass

from prompt_distillation.data.intervals import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Inputs whose confidence lies in ``[low, high)``.

    Attributes:
        confidence: their mean.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Whether the confidence means what it says."""

    n: int
    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CoveragePoint:
    """Accuracy over the share ``coverage`` of inputs whose confidence is at least ``threshold``."""

    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadePoint:
    """The cascade at one threshold; None: the teacher answers everything."""

    threshold: float | None
    student_share: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeCheck:
    """The cascade on inputs that had no say in its threshold.

    Attributes:
        only_cascade_right: inputs on which the teacher alone is wrong.
    """

    n: int
    student_share: float
    accuracy: float
    interval: Interval | None
    only_cascade_right: int
    only_teacher_right: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """Student first, teacher where the student is less sure than ``threshold``.

    Attributes:
        threshold: None if no threshold reaches the teacher's accuracy: the teacher answers all.
        student_share: share of inputs that the student answers; 1: nothing falls back.
        check: None where the inputs are of one group.
        curve: every threshold that makes a difference, the highest first.
    """

    n: int
    threshold: float | None
    student_share: float
    accuracy: float
    teacher_accuracy: float
    check: CascadeCheck | None
    curve: tuple[CascadePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """What the label probabilities show."""

    calibration: Calibration
    coverage: tuple[CoveragePoint, ...]
    cascade: Cascade | None
