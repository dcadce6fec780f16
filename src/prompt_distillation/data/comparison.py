"""What a comparison measured: the layout of ``comparison.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompt_distillation.data.intervals import Estimate, Interval
from prompt_distillation.data.results import Confidence, PairedTest

COMPARISON_FILE = "comparison.json"
TEACHER_KEY = "teacher"
STUDENT_KEY = "student"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Seconds from submission, over ``n`` queries with ``concurrency`` of them in flight.

    Attributes:
        first_token_p50: until the first token; None where the engine does not tell.
        p50: until the last.
    """

    n: int
    concurrency: int
    p50: float
    p95: float
    mean: float
    first_token_p50: float | None
    first_token_p95: float | None
    queries_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryCost:
    """What a query costs.

    Attributes:
        basis: how it was calculated: from tokens, or from the machine's time at full load.
    """

    per_million_queries: float
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MonthlySaving:
    """What distillation saves at a given number of queries per month.

    Attributes:
        return_on_training: a year's saving over the cost of the training; None if that was free.
        payback_days: until the training has paid for itself; None if it never does.
    """

    queries_per_month: int
    before: float
    after: float
    saving: float
    return_on_training: float | None
    payback_days: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """The costs of teacher and student compared.

    Attributes:
        break_even_queries: queries after which the training is paid for; None if never.
        saving_share: how much cheaper a student's query is, as a share of the teacher's.
    """

    currency: str
    training_cost: float
    break_even_queries: float | None
    saving_share: float
    months: tuple[MonthlySaving, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model, with or without prompt and thinking, measured.

    Attributes:
        result_file: its whole evaluation, a file beside the comparison.
        n: answers that were judged, or for free text compared with a reference.
        cost: None where no prices were given.
        chrf: similarity of free text to its reference, in [0, 1]; None for other kinds.
        text_scores: every figure of free text by its name, that one included.
    """

    key: str
    title: str
    model: str
    adapter: str | None
    with_prompt: bool
    thinking: bool
    result_file: str
    n: int
    accuracy: float | None
    interval: Interval | None
    macro_f1: float | None
    parse_rate: float
    prompt_tokens_per_query: float
    cached_tokens_per_query: float
    completion_tokens_per_query: float
    queries_per_second: float
    alone: Latency
    loaded: Latency
    cost: QueryCost | None
    chrf: Estimate | None = None
    text_scores: Mapping[str, Estimate] | None = None

    @property
    def tokens_per_query(self) -> float:
        """Tokens in and out."""
        return self.prompt_tokens_per_query + self.completion_tokens_per_query


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfidence:
    """The student's labels, scored in one pass on the inputs of the cells.

    Attributes:
        result_file: the evaluation by scores, beside the comparison.
        same_answers: share of inputs whose most likely label is what the student wrote.
        shown: calibration, coverage, and the cascade with the answers of the teacher's cell.
        cascade_cost: every input through the student, the share that falls back through the
            teacher, at the costs of their cells; None without prices or without a cascade.
    """

    result_file: str
    same_answers: float
    queries_per_second: float
    shown: Confidence | None
    cascade_cost: QueryCost | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All models and settings that were measured, and the costs of student and teacher.

    Attributes:
        confidence: None where the labels were not scored; ``confidence_skipped`` says why.
        student_against_teacher: the student (first) and the teacher on the same inputs, where both
            were measured and can be judged.
    """

    cells: tuple[Cell, ...]
    bill: Bill | None
    confidence: StudentConfidence | None
    confidence_skipped: str | None
    split: str
    truth: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    student_against_teacher: PairedTest | None = None

    def __repr__(self) -> str:
        cells = [
            f"{cell.key}={'-' if cell.accuracy is None else format(cell.accuracy, '.4f')}"
            for cell in self.cells
        ]
        return f"Comparison({', '.join(cells)}; split={self.split!r}, truth={self.truth!r})"

    def cell(self, key: str) -> Cell | None:
        """The cell of that name, if it was run."""
        return next((cell for cell in self.cells if cell.key == key), None)
