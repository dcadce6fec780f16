"""Prompt x thinking: the teacher and the student, each way of asking measured alike."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.data.comparison import (
    STUDENT_KEY,
    TEACHER_KEY,
    Cell,
    Latency,
    QueryCost,
    StudentConfidence,
)
from prompt_distillation.data.results import Prediction, Result, Usage
from prompt_distillation.engines import Engine, EngineKind, EngineOptions, open_engine
from prompt_distillation.engines.scoring import make_label_scorer
from prompt_distillation.errors import EngineError
from prompt_distillation.evaluation.costs import cost_of_cascade
from prompt_distillation.evaluation.latency import measure_latency
from prompt_distillation.evaluation.predicting import (
    Asking,
    predict,
    predict_by_score,
    request_for,
)
from prompt_distillation.evaluation.scoring import usage
from prompt_distillation.evaluation.selection import Selection
from prompt_distillation.tasks import RejectReason, Task


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One way of asking one model.

    Attributes:
        key: name of its files.
        title: as people read it.
        model: what to load; cells with equal models share an engine.
        asking: how it is asked.
        score_labels: whether the probabilities of the labels are asked for too.
    """

    key: str
    title: str
    model: EngineOptions
    asking: Asking
    score_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """The same inputs once more, with the probability of each label instead of a written answer."""

    predictions: tuple[Prediction, ...]
    used: Usage


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """What a cell showed."""

    plan: CellPlan
    predictions: tuple[Prediction, ...]
    used: Usage
    alone: Latency
    loaded: Latency
    scored: ScoredRun | None


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """How latency is measured: on the first inputs that the engine could answer.

    They have been asked before: a prefix cache then holds the input too, where in production it
    holds the prompt. Inputs of many tokens are answered a little sooner here than there.

    Attributes:
        samples: queries timed alone, one after the other; also the least number timed together.
        concurrency: in flight together.
    """

    samples: int
    concurrency: int


async def run_cells(
    kind: EngineKind,
    plans: Sequence[CellPlan],
    selection: Selection,
    *,
    task: Task,
    latency: LatencyPlan,
    tell: Callable[[str], None],
) -> list[CellRun]:
    """Run every cell, loading each model once.

    Args:
        kind: of the engine.
        plans: the cells; the order of the results.
        selection: the inputs, the same for all.
        task: the task.
        latency: how latency is measured.
        tell: called with a line about what is done now.

    Raises:
        EngineError: an engine cannot be had, or stopped answering.
        ModelError: a model cannot be loaded.
    """
    runs: dict[str, CellRun] = {}
    for model in dict.fromkeys(plan.model for plan in plans):
        tell(f"loading {model.adapter or model.model}")
        opening = time.perf_counter()
        async with open_engine(kind, model) as engine:
            startup = time.perf_counter() - opening
            for plan in plans:
                if plan.model == model:
                    tell(f"  {plan.title}: {len(selection.items)} inputs")
                    runs[plan.key] = await _run_cell(
                        engine, plan, selection, task=task, latency=latency, startup=startup
                    )
    return [runs[plan.key] for plan in plans]


async def _run_cell(
    engine: Engine,
    plan: CellPlan,
    selection: Selection,
    *,
    task: Task,
    latency: LatencyPlan,
    startup: float,
) -> CellRun:
    start = time.perf_counter()
    written = await _all(predict(engine, selection.items, task=task, asking=plan.asking))
    used = usage(
        written,
        engine=engine.name,
        run_seconds=time.perf_counter() - start,
        startup_seconds=startup,
    )
    requests = [
        request_for(item, task=task, asking=plan.asking)
        for item, prediction in zip(selection.items, written, strict=True)
        if prediction.reject_reason is not RejectReason.ENGINE_ERROR
    ]
    if not requests:
        raise EngineError(f"{plan.title}: no input could be asked: {written[0].raw_output}")
    few = requests[: latency.samples]
    many = requests[: max(latency.samples, 4 * latency.concurrency)]
    return CellRun(
        plan=plan,
        predictions=written,
        used=used,
        alone=await measure_latency(engine, few, concurrency=1),
        loaded=await measure_latency(engine, many, concurrency=latency.concurrency),
        scored=await _score(engine, plan, selection, task=task) if plan.score_labels else None,
    )


async def _score(engine: Engine, plan: CellPlan, selection: Selection, *, task: Task) -> ScoredRun:
    """Ask for the probabilities of the labels, on the engine that is open."""
    start = time.perf_counter()
    scorer = await make_label_scorer(engine, plan.model, list(task.labels))
    ready = time.perf_counter()
    predictions = await _all(
        predict_by_score(scorer, selection.items, task=task, asking=plan.asking)
    )
    used = usage(
        predictions,
        engine=engine.name,
        run_seconds=time.perf_counter() - ready,
        startup_seconds=ready - start,
    )
    return ScoredRun(predictions=predictions, used=used)


async def _all(answers: AsyncGenerator[Prediction, None]) -> tuple[Prediction, ...]:
    async with aclosing(answers):
        return tuple([prediction async for prediction in answers])


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


def result_path(output_dir: Path, key: str) -> Path:
    """Where the result of a cell stands."""
    return output_dir / f"{key}.json"
