"""One evaluation: a model, or saved predictions, against what is known about the inputs."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.config import flat
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.data.result_files import read_result
from prompt_distillation.data.results import SCHEMA_VERSION, Prediction, Result, Usage
from prompt_distillation.engines import Engine, EngineOptions, engine_options, open_engine
from prompt_distillation.engines.event_loop import run
from prompt_distillation.engines.scoring import make_label_scorer
from prompt_distillation.errors import ConfigError, EngineError, InputError
from prompt_distillation.evaluation.confidence import confidence_results
from prompt_distillation.evaluation.field_scores import field_scores
from prompt_distillation.evaluation.gate import check_gate
from prompt_distillation.evaluation.metrics import (
    confusion_matrix,
    per_label_results,
    summarise,
    three_truths,
    usage,
    worst_labels,
)
from prompt_distillation.evaluation.predictions import (
    RECORDS_SUFFIX,
    asking_of,
    predict,
    predict_by_score,
    replay,
)
from prompt_distillation.evaluation.selection import Selection, TestItem, select_inputs
from prompt_distillation.evaluation.text_scores import check_similarity, text_scores
from prompt_distillation.provenance import provenance, sha256_of_file
from prompt_distillation.tasks import END_OF_THINKING, RejectReason, Task, load_task

OnPrediction = Callable[[Prediction, int], None]
"""Gets each prediction, in the order of the inputs, and how many there will be."""


def evaluate(config: EvaluateConfig, *, on_prediction: OnPrediction | None = None) -> Result:
    """Evaluate a model, or saved predictions; writes nothing. See `prompt_distillation.evaluate`.

    ``on_prediction`` gets each prediction as soon as it and all before it are there.
    """
    task = load_task(config.test.task)
    check_decoding(config, task)
    check_similarity(config.texts.similarity_model, task)
    baseline = read_result(config.gate.baseline) if config.gate.baseline else None
    selection = select_inputs(config.test, task)
    if config.predictions_file is not None:
        result = _evaluate_file(config.predictions_file, config, selection, task, on_prediction)
    else:
        result = run(_evaluate_alone(config, selection, task, on_prediction))
    return replace(result, gate=check_gate(result, config.gate, baseline=baseline))


def check_decoding(config: EvaluateConfig, task: Task) -> None:
    """Raise for a way of decoding that the task or the engine does not have.

    Raises:
        ConfigError: it needs labels or a schema, and the task has none.
        EngineError: a server cannot score labels.
    """
    has_schema = config.decoding == "constrained" and task.answers.json_schema is not None
    if config.decoding != "free" and not task.labels and not has_schema:
        raise ConfigError(
            f"--decoding {config.decoding} needs labels; the task {task.name!r} has none"
        )
    if config.decoding == "scored" and config.engine.engine == "server":
        raise EngineError(
            "labels cannot be scored over a server; use --engine vllm or transformers, or "
            "--decoding constrained"
        )


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that is loaded; evaluations of it that follow each other share it."""

    engine: Engine
    options: EngineOptions
    startup_seconds: float


@asynccontextmanager
async def open_model(config: EvaluateConfig) -> AsyncIterator[OpenModel]:
    """Load the model that an evaluation asks for, and free it when the block ends."""
    options = engine_options(config.model, config.engine, seed=config.sampling.seed)
    opening = time.perf_counter()
    async with open_engine(config.engine.engine, options) as engine:
        seconds = time.perf_counter() - opening
        yield OpenModel(engine=engine, options=options, startup_seconds=seconds)


async def open_models(
    plans: Mapping[str, EvaluateConfig], tell: Callable[[str], None]
) -> AsyncGenerator[tuple[str, OpenModel], None]:
    """Yield the key of each plan and its model; plans of one model come together and share it.

    Close it where the loop over it may end early: that frees the model.
    """
    # All before the first is loaded: a mistyped student is found before the teacher is asked.
    models = {
        key: engine_options(plan.model, plan.engine, seed=plan.sampling.seed)
        for key, plan in plans.items()
    }
    done: set[str] = set()
    for first, options in models.items():
        if first in done:
            continue
        tell(f"loading {options.adapter or options.model}")
        async with open_model(plans[first]) as model:
            for key in (key for key, other in models.items() if other == options):
                done.add(key)
                yield key, model


async def _evaluate_alone(
    config: EvaluateConfig, selection: Selection, task: Task, on_prediction: OnPrediction | None
) -> Result:
    async with open_model(config) as model:
        return await evaluate_on(model, config, selection, task=task, on_prediction=on_prediction)


async def evaluate_on(
    model: OpenModel,
    config: EvaluateConfig,
    selection: Selection,
    *,
    task: Task,
    on_prediction: OnPrediction | None = None,
) -> Result:
    """Evaluate a model that is loaded.

    Raises:
        EngineError: it stopped answering, or answered nothing at all.
    """
    asking, opening = asking_of(config, task), time.perf_counter()
    if config.decoding == "scored":
        scorer = await make_label_scorer(model.engine, model.options, list(task.labels))
        answers = predict_by_score(scorer, selection.items, task=task, asking=asking)
    else:
        answers = predict(model.engine, selection.items, task=task, asking=asking)
    started = time.perf_counter()
    predictions = []
    async with aclosing(answers):
        async for prediction in answers:
            predictions.append(prediction)
            if on_prediction:
                on_prediction(prediction, len(selection.items))
    used = usage(
        predictions,
        engine=model.engine.name,
        run_seconds=time.perf_counter() - started,
        startup_seconds=model.startup_seconds + started - opening,
    )
    if all(item.reject_reason == RejectReason.ENGINE_ERROR for item in predictions):
        raise EngineError(f"no input could be answered; the first: {predictions[0].raw_output}")
    adapter = model.options.adapter
    return build_result(
        selection,
        tuple(predictions),
        task=task,
        config=config,
        base_model=model.options.model,
        adapter=None if adapter is None else str(adapter),
        used=used,
    )


def _evaluate_file(
    path: Path,
    config: EvaluateConfig,
    selection: Selection,
    task: Task,
    on_prediction: OnPrediction | None,
) -> Result:
    """Score saved predictions; those of a dataset's records are the teacher's that labelled it."""
    predictions = tuple(replay(path, selection.items, task=task))
    for prediction in predictions:
        if on_prediction:
            on_prediction(prediction, len(predictions))
    base_model, used = str(path), None
    if path.name.endswith(RECORDS_SUFFIX):
        dataset = path.with_name(path.name.removesuffix(RECORDS_SUFFIX) + ".jsonl")
        base_model, used = _labelling_run(dataset, predictions)
    return build_result(
        selection, predictions, task=task, config=config, base_model=base_model, used=used
    )


def _labelling_run(dataset: Path, predictions: tuple[Prediction, ...]) -> tuple[str, Usage | None]:
    """The teacher of a dataset, and its share of the tokens and time that labelling took.

    The time is known if the run made all requests and its manifest has its start-up; else None.
    """
    manifest = sibling(dataset, "manifest")
    fields: Any = read_json(manifest)
    try:
        base_model = str(fields["model"]["name"])
        requests, made = int(fields["counts"]["requests"]), int(fields["requests_made"])
        if made < requests or not requests or "startup_seconds" not in fields:
            return base_model, None
        startup = float(fields["startup_seconds"])
        seconds_per_request = (float(fields["seconds"]) - startup) / requests
        engine = str(fields["engine"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{manifest}: not the manifest of a labelled dataset ({error!r}); label again"
        ) from error
    return base_model, usage(
        predictions,
        engine=engine,
        run_seconds=seconds_per_request * len(predictions),
        startup_seconds=startup,
    )


def build_result(
    selection: Selection,
    predictions: tuple[Prediction, ...],
    *,
    task: Task,
    config: EvaluateConfig,
    base_model: str,
    adapter: str | None = None,
    used: Usage | None = None,
) -> Result:
    """Put together what an evaluation showed."""
    made, metrics = provenance(), task.answers.metrics
    is_judged = any(item.ground_truth is not None for item in predictions)
    matrix, per_label = None, {}
    if metrics == "labels" and is_judged:
        matrix = confusion_matrix(predictions, list(task.labels))
        per_label = per_label_results(matrix, predictions)
    reasons = Counter(item.reject_reason for item in predictions if item.reject_reason)
    return Result(
        model_path=config.model.model_name,
        base_model=base_model,
        test_file=str(config.test.test_file),
        train_data_file=str(config.test.train_data_file),
        timestamp=str(made["timestamp"]),
        summary=summarise(predictions, are_labels=metrics == "labels"),
        confusion_matrix=matrix,
        per_language_accuracy=per_label,
        worst_performing_languages=worst_labels(per_label),
        truths=three_truths(predictions, are_labels=metrics == "labels")
        if task.answers.has_right_answers
        else None,
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
        adapter=adapter,
        with_prompt=config.with_prompt,
        thinking=config.thinking,
        config=flat(config),
        inputs=_hashes(config),
        provenance=made,
        predictions=predictions,
        field_scores=field_scores(predictions) if metrics == "fields" else None,
        metrics=metrics,
        text_scores=text_scores(
            predictions,
            selection.truth,
            prompt=task.prompt,
            reasonings=[_teachers_reasoning(item) for item in selection.items],
            similarity_model=config.texts.similarity_model,
        )
        if metrics == "text"
        else None,
    )


def _teachers_reasoning(item: TestItem) -> str | None:
    """What the teacher thought about an input; None where that is not known."""
    raw = item.teacher.raw_output if item.teacher else None
    if raw is None or END_OF_THINKING not in raw:
        return None
    return raw.rpartition(END_OF_THINKING)[0]


def _hashes(config: EvaluateConfig) -> dict[str, str]:
    test = config.test
    named = (
        test.test_file, test.ground_truth_file, test.train_data_file, config.predictions_file,
    )  # fmt: skip
    return {str(path): sha256_of_file(path) for path in named if path and path.is_file()}
