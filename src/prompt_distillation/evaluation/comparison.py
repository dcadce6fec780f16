"""Prompt x thinking: the teacher and the student, each way of asking measured alike."""

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.engines import Engine, EngineKind, EngineOptions, Request, open_engine
from prompt_distillation.evaluation.latency import Latency, measure_latency
from prompt_distillation.evaluation.predicting import Asking, predict
from prompt_distillation.evaluation.schema import Prediction, Usage
from prompt_distillation.evaluation.scoring import usage
from prompt_distillation.evaluation.selection import Selection
from prompt_distillation.task import Task


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One way of asking one model.

    Attributes:
        key: name of its files.
        title: as people read it.
        model: what to load; cells with equal models share an engine.
        asking: how it is asked.
    """

    key: str
    title: str
    model: EngineOptions
    asking: Asking


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """What a cell showed."""

    plan: CellPlan
    predictions: tuple[Prediction, ...]
    used: Usage
    alone: Latency
    loaded: Latency


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """How latency is measured.

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
    requests = [
        Request(
            messages=task.conversation(
                item.input.text,
                history=item.input.history,
                with_prompt=plan.asking.with_prompt,
            ),
            sampling=plan.asking.sampling,
            prefill=plan.asking.prefill,
        )
        for item in selection.items
    ]
    start = time.perf_counter()
    predictions = []
    async with aclosing(predict(engine, selection.items, task=task, asking=plan.asking)) as answers:
        async for prediction in answers:
            predictions.append(prediction)
    used = usage(
        predictions,
        engine=engine.name,
        run_seconds=time.perf_counter() - start,
        startup_seconds=startup,
    )
    few = requests[: latency.samples]
    many = requests[: max(latency.samples, 4 * latency.concurrency)]
    return CellRun(
        plan=plan,
        predictions=tuple(predictions),
        used=used,
        alone=await measure_latency(engine, few, concurrency=1),
        loaded=await measure_latency(engine, many, concurrency=latency.concurrency),
    )


def result_path(output_dir: Path, key: str) -> Path:
    """Where the result of a cell stands."""
    return output_dir / f"{key}.json"
