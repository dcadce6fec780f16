"""Teacher and student side by side: each way of asking is one evaluation, the cells of a table."""

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config import ModelConfig, SamplingConfig, flat
from prompt_distillation.config.compare_config import CELLS, CompareConfig
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.comparison import (
    COMPARISON_FILE,
    STUDENT_KEY,
    TEACHER_KEY,
    Cell,
    Comparison,
    Latency,
    StudentConfidence,
)
from prompt_distillation.data.files import refuse_to_overwrite, write_json
from prompt_distillation.data.result_files import (
    check_comparison_folder,
    write_result,
)
from prompt_distillation.data.results import PairedTest, Result
from prompt_distillation.engines import (
    Completion,
    Engine,
    Request,
    RequestFailedError,
    stream,
)
from prompt_distillation.engines.event_loop import run
from prompt_distillation.evaluation.confidence import confidence_results
from prompt_distillation.evaluation.costs import bill_of, cost_of_cascade, query_cost
from prompt_distillation.evaluation.evaluator import (
    OpenModel,
    check_decoding,
    evaluate_on,
    open_models,
)
from prompt_distillation.evaluation.gate import compare_results
from prompt_distillation.evaluation.predictions import NO_THINKING, asking_of, request_for
from prompt_distillation.evaluation.selection import Selection, select_inputs
from prompt_distillation.evaluation.text_scores import check_similarity
from prompt_distillation.provenance import provenance
from prompt_distillation.tasks import RejectReason, Task, load_task, task_files

Tell = Callable[[str], None]

CONSTRAINED_KEY = f"{STUDENT_KEY}_constrained"
"""The student once more, able to write only a label, or JSON by the schema."""

TITLES = {
    TEACHER_KEY: "teacher, prompt + thinking",
    "teacher_direct": "teacher, prompt, no thinking",
    "student_prompted": "student before, prompt",
    "student_before": "student before, no prompt",
    STUDENT_KEY: "student distilled, no prompt",
    CONSTRAINED_KEY: "student distilled, no prompt, constrained",
}
SCORED_KEY = f"{STUDENT_KEY}_scored"
"""The student once more, with the probability of each label instead of a written answer."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a cell showed; its latency is not measured where labels were scored."""

    result: Result
    alone: Latency | None = None
    loaded: Latency | None = None


def compare(config: CompareConfig, *, tell: Tell | None = None) -> Comparison:
    """Evaluate every cell on the same inputs; see `prompt_distillation.compare`.

    Writes the evaluation of each cell as it is done, ``KEY.json``, and then ``comparison.json``
    into ``config.output_dir``. ``tell`` gets a line about what is done now.
    """
    refuse_to_overwrite([config.output_dir / COMPARISON_FILE], overwrite=config.overwrite)
    task = load_task(config.test.task)
    check_similarity(config.texts.similarity_model, task)
    plans = plan_cells(config, task)
    names = [plan.output_file.name for plan in plans.values()]
    check_comparison_folder(config.output_dir, names, _read_by(config))
    selection = select_inputs(config.test, task)
    measured = run(_measure(config, plans, selection, task=task, tell=tell or (lambda line: None)))
    cells = tuple(_make_cell(config, key, measured[key]) for key in config.cell_names)
    results = {key: one.result for key, one in measured.items()}
    comparison = Comparison(
        cells=cells,
        bill=bill_of(config, cells),
        confidence=_student_confidence(results, cells) if SCORED_KEY in results else None,
        confidence_skipped=_why_not_scored(config, task),
        student_against_teacher=_student_against_teacher(results),
        split=config.test.split,
        truth=selection.truth,
        config=flat(config),
        provenance=provenance(),
    )
    write_json(config.output_dir / COMPARISON_FILE, comparison)
    return comparison


def plan_cells(config: CompareConfig, task: Task) -> dict[str, EvaluateConfig]:
    """Each cell as the evaluation it is; given to `evaluate`, it gives the same result again.

    The teacher comes first, because the cascade of the scored student falls back to its answers.

    Raises:
        ConfigError: the student is to be constrained, and the task has neither labels nor schema.
    """
    plans = {key: _plan(config, key) for key in CELLS if key in config.cell_names}
    if _why_not_scored(config, task) is None:
        plans[SCORED_KEY] = replace(
            plans[STUDENT_KEY], decoding="scored", output_file=_result_path(config, SCORED_KEY)
        )
    for plan in plans.values():
        check_decoding(plan, task)
    return plans


def _plan(config: CompareConfig, key: str) -> EvaluateConfig:
    sampling = SamplingConfig(seed=config.teacher_sampling.seed)
    if key == TEACHER_KEY:
        sampling = config.teacher_sampling
    elif key == "teacher_direct":
        sampling = replace(
            config.teacher_sampling, max_tokens=None, max_thinking_tokens=None, prefill=NO_THINKING
        )
    return EvaluateConfig(
        model=_model_of(config, key),
        test=config.test,
        output_file=_result_path(config, key),
        with_prompt=key in (TEACHER_KEY, "teacher_direct", "student_prompted"),
        thinking=key == TEACHER_KEY and config.thinking,
        decoding="constrained" if key == CONSTRAINED_KEY else "free",
        sampling=sampling,
        engine=config.engine,
        texts=config.texts,
    )


def _read_by(config: CompareConfig) -> list[Path]:
    test = config.test
    models = [config.teacher.model_name, config.student.model_name, config.student.base_model]
    files = [test.test_file, test.ground_truth_file, test.train_data_file, *task_files(test.task)]
    read = [*files, *(Path(model) for model in models if model)]
    return [path for path in read if path is not None and path.exists()]


def _model_of(config: CompareConfig, key: str) -> ModelConfig:
    if key.startswith(TEACHER_KEY):
        return config.teacher
    if key in (STUDENT_KEY, CONSTRAINED_KEY):
        return config.student
    return base_of(config.student)


def base_of(student: ModelConfig) -> ModelConfig:
    """The student before distillation: the base that was named, or else its adapter's.

    Raises:
        ModelError: there is no such model.
    """
    base = student.base_model or resolve_model(student.model_name, None).base
    return replace(student, model_name=base, base_model=None)


def _result_path(config: CompareConfig, key: str) -> Path:
    return config.output_dir / f"{key}.json"


def _why_not_scored(config: CompareConfig, task: Task) -> str | None:
    """Why the student's labels are not scored; None if they are."""
    if STUDENT_KEY not in config.cell_names:
        return "the student is not among --cells"
    if not task.labels:
        return f"the answers of {task.name!r} are no labels, and only labels can be scored"
    return None if config.score_labels else "switched off by --no_score_labels"


async def _measure(
    config: CompareConfig,
    plans: dict[str, EvaluateConfig],
    selection: Selection,
    *,
    task: Task,
    tell: Tell,
) -> dict[str, _Measured]:
    """Run every cell; those of the same model follow each other and share it."""
    measured: dict[str, _Measured] = {}
    async with aclosing(open_models(plans, tell)) as models:
        async for key, model in models:
            tell(f"  {_title(config, key)}: {len(selection.items)} inputs")
            one = await _measure_cell(model, plans[key], selection, task=task, config=config)
            if key == SCORED_KEY:
                one = _with_cascade(one, measured.get(TEACHER_KEY))
            write_result(_result_path(config, key), one.result)
            measured[key] = one
    return measured


async def _measure_cell(
    model: OpenModel,
    plan: EvaluateConfig,
    selection: Selection,
    *,
    task: Task,
    config: CompareConfig,
) -> _Measured:
    result = await evaluate_on(model, plan, selection, task=task)
    if plan.decoding == "scored":
        return _Measured(result=result)
    asking = asking_of(plan, task)
    # They have been asked before: a prefix cache then holds the input too, where in production it
    # holds the prompt. Inputs of many tokens are answered a little sooner here than there.
    requests = [
        request_for(item, task=task, asking=asking)
        for item, prediction in zip(selection.items, result.predictions, strict=True)
        if prediction.reject_reason != RejectReason.ENGINE_ERROR
    ]
    samples, concurrency = config.latency_samples, config.concurrency
    many = requests[: max(samples, 4 * concurrency)]
    return _Measured(
        result=result,
        alone=await measure_latency(model.engine, requests[:samples], concurrency=1),
        loaded=await measure_latency(model.engine, many, concurrency=concurrency),
    )


def _with_cascade(scored: _Measured, teacher: _Measured | None) -> _Measured:
    """Let the cascade fall back to what the teacher's cell said, where that was measured.

    Otherwise it falls back to the teacher's labels in the training data.
    """
    if teacher is None:
        return scored
    answers = {item.index: item.predicted for item in teacher.result.predictions}
    confidence = confidence_results(scored.result.predictions, answers)
    return _Measured(result=replace(scored.result, confidence=confidence))


def _title(config: CompareConfig, key: str) -> str:
    if key == TEACHER_KEY and not config.thinking:
        return "teacher, prompt"
    return TITLES.get(key, "its labels, scored")


def _make_cell(config: CompareConfig, key: str, measured: _Measured) -> Cell:
    result, used = measured.result, measured.result.usage
    assert used is not None
    assert measured.alone is not None
    assert measured.loaded is not None
    count, texts = len(result.predictions), result.text_scores
    return Cell(
        key=key,
        title=_title(config, key),
        model=result.base_model,
        adapter=result.adapter,
        with_prompt=result.with_prompt,
        thinking=result.thinking,
        result_file=_result_path(config, key).name,
        n=texts.n if texts else result.summary.evaluated,
        accuracy=result.summary.accuracy,
        interval=result.summary.accuracy_interval,
        macro_f1=result.summary.macro_f1,
        parse_rate=result.summary.parse_rate,
        prompt_tokens_per_query=used.prompt_tokens_per_query,
        cached_tokens_per_query=(used.cached_tokens or 0) / count,
        completion_tokens_per_query=used.completion_tokens_per_query,
        queries_per_second=used.queries_per_second,
        alone=measured.alone,
        loaded=measured.loaded,
        cost=query_cost(config.costs, of_teacher=key.startswith(TEACHER_KEY), used=used, n=count),
        chrf=texts.chrf if texts else None,
        text_scores=dict(texts.named) if texts else None,
    )


def _student_confidence(results: dict[str, Result], cells: Sequence[Cell]) -> StudentConfidence:
    scored, written = results[SCORED_KEY], results[STUDENT_KEY]
    assert scored.usage is not None
    pairs = list(zip(written.predictions, scored.predictions, strict=True))
    costs = {cell.key: cell.cost for cell in cells}
    cascade = scored.confidence.cascade if scored.confidence else None
    share = cascade.student_share if cascade else None
    return StudentConfidence(
        result_file=f"{SCORED_KEY}.json",
        same_answers=sum(one.predicted == two.predicted for one, two in pairs) / len(pairs),
        queries_per_second=scored.usage.queries_per_second,
        shown=scored.confidence,
        cascade_cost=cost_of_cascade(costs.get(TEACHER_KEY), costs.get(STUDENT_KEY), share),
    )


def _student_against_teacher(results: dict[str, Result]) -> PairedTest | None:
    """McNemar's test of the two cells; None where one was not run or cannot be judged."""
    student, teacher = results.get(STUDENT_KEY), results.get(TEACHER_KEY)
    if student is None or teacher is None or student.summary.accuracy is None:
        return None
    return compare_results(student, teacher, where="the student's cell")


@dataclass(frozen=True)
class _Bounded:
    """An engine with fewer requests in flight."""

    engine: Engine
    concurrency: int

    async def complete(self, request: Request) -> Completion:
        return await self.engine.complete(request)


async def measure_latency(
    engine: Engine, requests: Sequence[Request], *, concurrency: int
) -> Latency:
    """Send ``requests`` with ``concurrency`` in flight; one more goes before, to warm caches."""
    await engine.complete(requests[0])
    seconds, first_tokens = [], []
    started = time.perf_counter()
    async with aclosing(stream(_Bounded(engine, concurrency), enumerate(requests))) as outcomes:
        async for _, outcome in outcomes:
            if isinstance(outcome, RequestFailedError):
                raise outcome
            seconds.append(outcome.seconds)
            if outcome.first_token_seconds is not None:
                first_tokens.append(outcome.first_token_seconds)
    elapsed = time.perf_counter() - started
    return Latency(
        n=len(seconds),
        concurrency=concurrency,
        p50=_percentile(seconds, 50),
        p95=_percentile(seconds, 95),
        mean=sum(seconds) / len(seconds),
        first_token_p50=_percentile(first_tokens, 50) if first_tokens else None,
        first_token_p95=_percentile(first_tokens, 95) if first_tokens else None,
        queries_per_second=len(seconds) / elapsed,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    """The ``share`` percentile, interpolated; ``values`` must not be empty."""
    import numpy as np

    return float(np.percentile(values, share))
