"""`scripts/compare.py`: the teacher and the student, prompt x thinking, and the bill."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prompt_distillation.checkpoints import BASE_ALONE, resolve_model
from prompt_distillation.cli.compare_costs import make_bill, query_cost
from prompt_distillation.cli.evaluate import select_inputs
from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import flat
from prompt_distillation.data.files import atomic_writer, refuse_to_overwrite
from prompt_distillation.evaluation.compare_config import CompareConfig
from prompt_distillation.evaluation.evaluate_config import EvaluateConfig
from prompt_distillation.provenance import provenance
from prompt_distillation.tasks import Task, load_task

if TYPE_CHECKING:  # what these import takes longer than --help may
    from prompt_distillation.data.comparison import Cell, Comparison
    from prompt_distillation.data.results import PairedTest, Result
    from prompt_distillation.engines import EngineOptions
    from prompt_distillation.evaluation.comparison import CellPlan, CellRun, ScoredRun
    from prompt_distillation.evaluation.selection import Selection

DESCRIPTION = """Measure teacher and student side by side: accuracy, tokens, latency, cost.

  python scripts/compare.py
  python scripts/compare.py --config recipes/cpu-example-compare.yaml
  python scripts/compare.py --cells teacher,student --price_per_hour 2.5

Cells: teacher (prompt, thinking), teacher_direct (prompt, no thinking), student_prompted (before
distillation, with the prompt), student_before (without it), student (distilled, no prompt).
The student's labels are scored too: is it right when it is sure, and what does it cost to let the
teacher answer where it is not?"""

TITLES = {
    "teacher": "teacher, prompt + thinking",
    "teacher_direct": "teacher, prompt, no thinking",
    "student_prompted": "student before, prompt",
    "student_before": "student before, no prompt",
    "student": "student distilled, no prompt",
}


def main(argv: Sequence[str]) -> int | None:
    """Compare as ``argv`` says: print the tables, write results, tables and plots."""
    config = parse_options(CompareConfig, argv, description=DESCRIPTION)
    # Imported only now: scientific libraries take longer than --help may.
    from prompt_distillation.data.comparison import COMPARISON_FILE
    from prompt_distillation.data.result_files import write_comparison, write_result
    from prompt_distillation.evaluation.comparison import LatencyPlan, result_path, run_cells
    from prompt_distillation.report.comparison_table import comparison_markdown
    from prompt_distillation.report.terminal import make_console, print_lines

    refuse_to_overwrite([config.output_dir / COMPARISON_FILE], overwrite=config.overwrite)
    task = load_task(config.test.task)
    plans = _plans(config, task)
    selection = select_inputs(config.test, task)
    console = make_console()
    runs = asyncio.run(
        run_cells(
            config.engine.engine,
            plans,
            selection,
            task=task,
            latency=LatencyPlan(samples=config.latency_samples, concurrency=config.concurrency),
            tell=lambda line: print_lines(console, [line]),
        )
    )
    results = {run.plan.key: _result(config, run, selection, task) for run in runs}
    results |= _scored_results(config, runs, selection, task)
    for key, result in results.items():
        write_result(result_path(config.output_dir, key), result)
    comparison = _comparison(config, runs, results, task)
    write_comparison(config.output_dir, comparison)
    table = comparison_markdown(comparison, _student_against_teacher(results))
    with atomic_writer(config.output_dir / "comparison.md") as file:
        file.write(table)
    print_lines(console, ["", table, f"Written to: {config.output_dir}"])
    return None


def _plans(config: CompareConfig, task: Task) -> "list[CellPlan]":
    from prompt_distillation.engines import EngineOptions, Sampling, engine_options
    from prompt_distillation.evaluation.comparison import CellPlan
    from prompt_distillation.evaluation.predicting import NO_THINKING, Asking, default_max_tokens

    def asking(name: str) -> Asking:
        thinking = name == "teacher"
        with_prompt = name in ("teacher", "teacher_direct", "student_prompted")
        room = default_max_tokens(task, with_prompt=with_prompt, thinking=thinking)
        sampling = Sampling(
            temperature=config.teacher_sampling.temperature if name.startswith("teacher") else 0.0,
            max_tokens=config.teacher_sampling.max_tokens or room if thinking else room,
            seed=config.teacher_sampling.seed,
        )
        return Asking(
            with_prompt=with_prompt,
            thinking=thinking,
            sampling=sampling,
            prefill=NO_THINKING if name == "teacher_direct" else "",
        )

    def options(name: str) -> EngineOptions:
        side = config.teacher if name.startswith("teacher") else config.student
        model_name, base = _model_of(config, name)
        model = replace(side, model_name=model_name, base_model=base)
        return engine_options(model, config.engine, seed=config.teacher_sampling.seed)

    return [
        CellPlan(
            key=name,
            title=TITLES[name],
            model=options(name),
            asking=asking(name),
            score_labels=name == "student" and _why_not_scored(config, task) is None,
        )
        for name in config.cell_names
    ]


def _why_not_scored(config: CompareConfig, task: Task) -> str | None:
    """Why the student's labels are not scored; None if they are."""
    if "student" not in config.cell_names:
        return "the student is not among --cells"
    if not task.labels:
        return f"the answers of {task.name!r} are free text, and only labels can be scored"
    return None if config.score_labels else "switched off by --no_score_labels"


def _model_of(config: CompareConfig, name: str) -> tuple[str, str | None]:
    """What `resolve_model` is asked for a cell."""
    if name.startswith("teacher"):
        return BASE_ALONE, config.teacher.model_name
    if name == "student":
        return config.student.model_name, config.student.base_model
    # The base that the adapter names: before distillation is what distillation started from.
    base = config.student.base_model or resolve_model(config.student.model_name, None).base
    return BASE_ALONE, base


def _evaluate_config(
    config: CompareConfig, run: "CellRun", *, scored: bool = False
) -> EvaluateConfig:
    """The command `evaluate.py` that would do the same, for the result's record."""
    asking, model = run.plan.asking, run.plan.model
    side = config.teacher if run.plan.key.startswith("teacher") else config.student
    return EvaluateConfig(
        model=replace(
            side,
            model_name=str(model.adapter) if model.adapter else BASE_ALONE,
            base_model=model.model,
        ),
        test=config.test,
        with_prompt=asking.with_prompt,
        thinking=asking.thinking,
        sampling=replace(
            config.teacher_sampling,
            temperature=asking.sampling.temperature,
            top_p=asking.sampling.top_p,
            max_tokens=asking.sampling.max_tokens,
            max_thinking_tokens=asking.sampling.max_thinking_tokens,
            prefill=asking.prefill or None,
        ),
        engine=config.engine,
        decoding="scored" if scored else "free",
    )


def _result(
    config: CompareConfig,
    run: "CellRun",
    selection: "Selection",
    task: Task,
    *,
    scored: "ScoredRun | None" = None,
) -> "Result":
    """The evaluation of a cell, as written or, where ``scored`` is given, by its scores."""
    from prompt_distillation.evaluation.running import Subject, build_result

    model: EngineOptions = run.plan.model
    adapter = str(model.adapter) if model.adapter else None
    return build_result(
        selection,
        (scored or run).predictions,
        subject=Subject(model_path=adapter or model.model, base_model=model.model, adapter=adapter),
        task=task,
        used=(scored or run).used,
        config=flat(_evaluate_config(config, run, scored=scored is not None)),
    )


def _scored_results(
    config: CompareConfig, runs: "list[CellRun]", selection: "Selection", task: Task
) -> "dict[str, Result]":
    """The evaluation of the scored labels; its cascade falls back to what the teacher's cell said.

    Where that was not run, to the teacher's labels in the training data.
    """
    from prompt_distillation.evaluation.calibration import confidence_results

    teacher = next((run for run in runs if run.plan.key == "teacher"), None)
    answers = {item.index: item.predicted for item in teacher.predictions} if teacher else None
    found = {}
    for run in runs:
        if run.scored is not None:
            result = _result(config, run, selection, task, scored=run.scored)
            confidence = confidence_results(run.scored.predictions, answers)
            found[f"{run.plan.key}_scored"] = replace(result, confidence=confidence)
    return found


def _student_against_teacher(results: "dict[str, Result]") -> "PairedTest | None":
    """McNemar's test of the two cells; None where one was not run or cannot be judged."""
    from prompt_distillation.evaluation.gate import compare_results

    student, teacher = results.get("student"), results.get("teacher")
    if student is None or teacher is None or student.summary.accuracy is None:
        return None
    return compare_results(student, teacher, where="the student's cell")


def _comparison(
    config: CompareConfig, runs: "list[CellRun]", results: "dict[str, Result]", task: Task
) -> "Comparison":
    from prompt_distillation.data.comparison import Comparison
    from prompt_distillation.evaluation.comparison import make_cell, student_confidence

    cells: tuple[Cell, ...] = tuple(
        make_cell(run, results[run.plan.key], query_cost(config, run)) for run in runs
    )
    scored = next((run for run in runs if run.scored is not None), None)
    return Comparison(
        cells=cells,
        bill=make_bill(config, cells),
        confidence=student_confidence(scored, results[f"{scored.plan.key}_scored"], cells)
        if scored
        else None,
        confidence_skipped=_why_not_scored(config, task),
        split=config.test.split,
        truth=results[runs[0].plan.key].truth,
        config=flat(config),
        provenance=provenance(),
    )
