"""The result of a comparison, as records and as the file that plots and reports read."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prompt_distillation.data.files import read_json, write_json
from prompt_distillation.data.intervals import Interval
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.comparison import CellRun
from prompt_distillation.evaluation.confidence import Confidence
from prompt_distillation.evaluation.costs import Bill, QueryCost, cost_of_cascade
from prompt_distillation.evaluation.latency import Latency
from prompt_distillation.evaluation.result_file import build_record
from prompt_distillation.evaluation.schema import Result

COMPARISON_FILE = "comparison.json"
TEACHER_KEY = "teacher"
STUDENT_KEY = "student"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One way of asking one model, measured.

    Attributes:
        result_file: its whole evaluation, beside the comparison.
        cost: None where no prices were given.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfidence:
    """The student's labels, scored in one pass on the inputs of the cells.

    Attributes:
        result_file: the evaluation by scores, beside the comparison.
        same_answers: share of inputs whose likeliest label is what the student wrote.
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
    """All cells, and the bill of the student against the teacher.

    Attributes:
        confidence: None where the labels were not scored; ``confidence_skipped`` says why.
    """

    cells: tuple[Cell, ...]
    bill: Bill | None
    confidence: StudentConfidence | None
    confidence_skipped: str | None
    split: str
    truth: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def cell(self, key: str) -> Cell | None:
        """The cell of that name, if it was run."""
        return next((cell for cell in self.cells if cell.key == key), None)


def make_cell(run: CellRun, result: Result, cost: QueryCost | None) -> Cell:
    """Put together what one cell showed."""
    count = len(run.predictions)
    return Cell(
        key=run.plan.key,
        title=run.plan.title,
        model=result.base_model,
        adapter=result.adapter,
        with_prompt=run.plan.asking.with_prompt,
        thinking=run.plan.asking.thinking,
        result_file=f"{run.plan.key}.json",
        n=result.summary.evaluated,
        accuracy=result.summary.accuracy,
        interval=result.summary.accuracy_interval,
        macro_f1=result.summary.macro_f1,
        parse_rate=result.summary.parse_rate,
        prompt_tokens_per_query=run.used.prompt_tokens_per_query,
        cached_tokens_per_query=(run.used.cached_tokens or 0) / count,
        completion_tokens_per_query=run.used.completion_tokens_per_query,
        queries_per_second=run.used.queries_per_second,
        alone=run.alone,
        loaded=run.loaded,
        cost=cost,
    )


def student_confidence(run: CellRun, result: Result, cells: Sequence[Cell]) -> StudentConfidence:
    """Put together what the student's scored labels showed.

    Args:
        run: the student's cell; its labels were scored.
        result: the evaluation of the scored labels.
        cells: for their costs.
    """
    assert run.scored is not None
    pairs = list(zip(run.predictions, run.scored.predictions, strict=True))
    costs = {cell.key: cell.cost for cell in cells}
    cascade = result.confidence.cascade if result.confidence else None
    share = cascade.student_share if cascade else None
    return StudentConfidence(
        result_file=f"{run.plan.key}_scored.json",
        same_answers=sum(one.predicted == two.predicted for one, two in pairs) / len(pairs),
        queries_per_second=run.scored.used.queries_per_second,
        shown=result.confidence,
        cascade_cost=cost_of_cascade(costs.get(TEACHER_KEY), costs.get(STUDENT_KEY), share),
    )


def write_comparison(output_dir: Path, comparison: Comparison) -> Path:
    """Write ``comparison.json``; returns its path."""
    path = output_dir / COMPARISON_FILE
    write_json(path, dataclasses.asdict(comparison))
    return path


def read_comparison(path: Path) -> Comparison:
    """Read what `write_comparison` wrote.

    Raises:
        InputError: no such file, or not a comparison.
    """
    value = read_json(path)
    try:
        return cast(Comparison, build_record(value, Comparison))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a comparison ({error!r}); compare again") from error


def deltas(cells: Sequence[Cell]) -> dict[str, float]:
    """Accuracy of each cell less that of the teacher; empty without a teacher."""
    teacher = next((cell for cell in cells if cell.key == TEACHER_KEY), None)
    if teacher is None or teacher.accuracy is None:
        return {}
    return {
        cell.key: cell.accuracy - teacher.accuracy
        for cell in cells
        if cell.accuracy is not None and cell is not teacher
    }
