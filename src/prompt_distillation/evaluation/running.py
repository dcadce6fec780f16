"""One model, one selection of inputs: asked, timed, and put into a result."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.data.results import SCHEMA_VERSION, Prediction, Result, Usage
from prompt_distillation.engines import EngineKind, EngineOptions, open_engine
from prompt_distillation.engines.scoring import open_label_scorer
from prompt_distillation.evaluation.calibration import confidence_results
from prompt_distillation.evaluation.predicting import Asking, predict, predict_by_score
from prompt_distillation.evaluation.scoring import (
    confusion_matrix,
    per_label_results,
    summarise,
    three_truths,
    usage,
    worst_labels,
)
from prompt_distillation.evaluation.selection import Selection
from prompt_distillation.evaluation.text_overlap import text_overlap
from prompt_distillation.provenance import provenance, sha256_of_file
from prompt_distillation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: names for the result.

    Attributes:
        model_path: as the user gave it.
        base_model: what was loaded.
        adapter: what was put on top.
    """

    model_path: str
    base_model: str
    adapter: str | None


async def ask_model(
    kind: EngineKind,
    options: EngineOptions,
    selection: Selection,
    *,
    task: Task,
    asking: Asking,
    show: Callable[[Prediction], None],
) -> tuple[tuple[Prediction, ...], Usage]:
    """Open an engine, ask it everything, close it.

    Args:
        kind: of the engine.
        options: what it loads.
        selection: the inputs.
        task: the task whose prompt and parser are used.
        asking: how the model is asked.
        show: called with each prediction as soon as it and all before it are there.

    Raises:
        EngineError: the engine cannot be had, or stopped answering.
        ModelError: the model cannot be loaded.
    """
    predictions = []
    opening = time.perf_counter()
    async with _open_answers(kind, options, selection, task=task, asking=asking) as (name, answers):
        start = time.perf_counter()
        async for prediction in answers:
            predictions.append(prediction)
            show(prediction)
        run_seconds = time.perf_counter() - start
    used = usage(predictions, engine=name, run_seconds=run_seconds, startup_seconds=start - opening)
    return tuple(predictions), used


@asynccontextmanager
async def _open_answers(
    kind: EngineKind, options: EngineOptions, selection: Selection, *, task: Task, asking: Asking
) -> AsyncIterator[tuple[str, AsyncIterator[Prediction]]]:
    """Load the model; hand over its engine's name and its answers, not asked for yet."""
    if asking.scored:
        async with open_label_scorer(kind, options, list(task.labels)) as scorer:
            scored = predict_by_score(scorer, selection.items, task=task, asking=asking)
            async with aclosing(scored) as answers:
                yield scorer.name, answers
    else:
        async with open_engine(kind, options) as engine:
            written = predict(engine, selection.items, task=task, asking=asking)
            async with aclosing(written) as answers:
                yield engine.name, answers


def build_result(
    selection: Selection,
    predictions: tuple[Prediction, ...],
    *,
    subject: Subject,
    task: Task,
    used: Usage | None,
    config: Mapping[str, Any],
) -> Result:
    """Put together what a run showed.

    Args:
        selection: what was asked.
        predictions: one per item of ``selection``, in its order.
        subject: the model.
        task: the task.
        used: tokens and time; None for predictions from a file.
        config: the command's resolved options; those that name a file that exists are hashed.
    """
    made = provenance()
    matrix = per_label = None
    if task.answers.metrics == "labels":
        matrix = confusion_matrix(predictions, list(task.labels))
        per_label = per_label_results(matrix, predictions)
    reasons = Counter(item.reject_reason for item in predictions if item.reject_reason)
    return Result(
        model_path=subject.model_path,
        base_model=subject.base_model,
        test_file=str(config["test_file"]),
        train_data_file=str(config["train_data_file"]),
        timestamp=str(made["timestamp"]),
        summary=summarise(predictions),
        confusion_matrix=matrix,
        per_language_accuracy=per_label or {},
        worst_performing_languages=worst_labels(per_label or {}),
        truths=three_truths(predictions) if matrix else None,
        text_overlap=None if matrix else text_overlap(predictions, selection.truth),
        confidence=confidence_results(predictions),
        gate=None,
        overlap=selection.overlap,
        usage=used,
        reject_reasons=dict(reasons.most_common()),
        schema_version=SCHEMA_VERSION,
        task=task.name,
        prompt_sha256=task.prompt_sha256,
        split=selection.split,
        truth=selection.truth,
        adapter=subject.adapter,
        with_prompt=bool(config["with_prompt"]),
        thinking=bool(config["thinking"]),
        config=config,
        inputs=_hashes(config),
        provenance=made,
        predictions=predictions,
    )


def _hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each file that the options name and that is read."""
    names = ("test_file", "ground_truth_file", "train_data_file", "predictions_file")
    paths = [Path(config[name]) for name in names if config.get(name)]
    return {str(path): sha256_of_file(path) for path in paths if path.is_file()}
