"""`scripts/compare.py`: the teacher and the student, prompt x thinking, and the bill."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.checkpoints import BASE_ALONE, resolve_model
from prompt_distillation.commands.compare_config import CompareConfig
from prompt_distillation.commands.evaluate import select_inputs
from prompt_distillation.commands.evaluate_config import EvaluateConfig
from prompt_distillation.commands.options import parse_options, resolved
from prompt_distillation.errors import InputError
from prompt_distillation.files import atomic_writer, read_json, refuse_to_overwrite, sibling
from prompt_distillation.provenance import provenance
from prompt_distillation.task import Task, load_task

if TYPE_CHECKING:  # what these import takes longer than --help may
    from prompt_distillation.engines import EngineOptions
    from prompt_distillation.evaluation.comparison import CellPlan, CellRun
    from prompt_distillation.evaluation.comparison_file import Cell, Comparison
    from prompt_distillation.evaluation.costs import Bill, QueryCost
    from prompt_distillation.evaluation.schema import Result
    from prompt_distillation.evaluation.selection import Selection

logger = logging.getLogger(__name__)

DESCRIPTION = """Measure teacher and student side by side: accuracy, tokens, latency, cost.

  python scripts/compare.py
  python scripts/compare.py --config recipes/cpu-example-compare.yaml
  python scripts/compare.py --cells teacher,student --price_per_hour 2.5

Cells: teacher (prompt, thinking), teacher_direct (prompt, no thinking), student_prompted (before
distillation, with the prompt), student_before (without it), student (distilled, no prompt)."""

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
    from prompt_distillation.evaluation.comparison import LatencyPlan, result_path, run_cells
    from prompt_distillation.evaluation.comparison_file import COMPARISON_FILE, write_comparison
    from prompt_distillation.evaluation.result_file import write_result
    from prompt_distillation.report.comparison_table import comparison_markdown
    from prompt_distillation.report.terminal import make_console, print_lines

    refuse_to_overwrite([config.output_dir / COMPARISON_FILE], overwrite=config.overwrite)
    task = load_task(config.task)
    plans = _plans(config, task)
    selection = select_inputs(_evaluate_config(config, None), task)
    console = make_console()
    runs = asyncio.run(
        run_cells(
            config.engine,
            plans,
            selection,
            task=task,
            latency=LatencyPlan(samples=config.latency_samples, concurrency=config.concurrency),
            tell=lambda line: print_lines(console, [line]),
        )
    )
    results = [_result(config, run, selection, task) for run in runs]
    for run, result in zip(runs, results, strict=True):
        write_result(result_path(config.output_dir, run.plan.key), result)
    comparison = _comparison(config, runs, results)
    write_comparison(config.output_dir, comparison)
    table = comparison_markdown(comparison)
    with atomic_writer(config.output_dir / "comparison.md") as file:
        file.write(table)
    print_lines(console, ["", table, f"Written to: {config.output_dir}"])
    return None


def _plans(config: CompareConfig, task: Task) -> "list[CellPlan]":
    from prompt_distillation.engines import EngineOptions, Sampling
    from prompt_distillation.evaluation.comparison import CellPlan
    from prompt_distillation.evaluation.predicting import NO_THINKING, Asking, default_max_tokens

    def asking(name: str) -> Asking:
        thinking = name == "teacher"
        with_prompt = name in ("teacher", "teacher_direct", "student_prompted")
        room = default_max_tokens(task, with_prompt=with_prompt, thinking=thinking)
        sampling = Sampling(
            temperature=config.teacher_temperature if name.startswith("teacher") else 0.0,
            max_tokens=config.teacher_max_tokens if thinking else room,
            seed=config.seed,
        )
        return Asking(
            with_prompt=with_prompt,
            thinking=thinking,
            sampling=sampling,
            prefill=NO_THINKING if name == "teacher_direct" else "",
        )

    def options(name: str) -> EngineOptions:
        found = resolve_model(*_model_of(config, name))
        return EngineOptions(
            model=found.base,
            adapter=found.adapter,
            tensor_parallel_size=config.tensor_parallel_size,
            max_model_len=config.max_model_len,
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_concurrency=None,
            seed=config.seed,
        )

    return [
        CellPlan(key=name, title=TITLES[name], model=options(name), asking=asking(name))
        for name in config.cell_names
    ]


def _model_of(config: CompareConfig, name: str) -> tuple[str, str | None]:
    """What `resolve_model` is asked for a cell."""
    if name.startswith("teacher"):
        return BASE_ALONE, config.teacher_model
    if name == "student":
        return config.student_path, config.base_model
    # The base that the adapter names: before distillation is what distillation started from.
    base = config.base_model or resolve_model(config.student_path, None).base
    return BASE_ALONE, base


def _evaluate_config(config: CompareConfig, run: "CellRun | None") -> EvaluateConfig:
    """The command `evaluate.py` that would do the same, for the result's record."""
    shared = EvaluateConfig(
        task=config.task,
        test_file=config.test_file,
        ground_truth_file=config.ground_truth_file,
        train_data_file=config.train_data_file,
        split=config.split,
        max_samples=config.max_samples,
        engine=config.engine,
        seed=config.seed,
    )
    if run is None:
        return shared
    from dataclasses import replace

    asking, model = run.plan.asking, run.plan.model
    return replace(
        shared,
        model_path=str(model.adapter) if model.adapter else BASE_ALONE,
        base_model=model.model,
        with_prompt=asking.with_prompt,
        thinking=asking.thinking,
        temperature=asking.sampling.temperature,
        max_tokens=asking.sampling.max_tokens,
    )


def _result(config: CompareConfig, run: "CellRun", selection: "Selection", task: Task) -> "Result":
    from prompt_distillation.evaluation.running import Subject, build_result

    model: EngineOptions = run.plan.model
    adapter = str(model.adapter) if model.adapter else None
    return build_result(
        selection,
        run.predictions,
        subject=Subject(model_path=adapter or model.model, base_model=model.model, adapter=adapter),
        task=task,
        used=run.used,
        config=resolved(_evaluate_config(config, run)),
    )


def _comparison(
    config: CompareConfig, runs: "list[CellRun]", results: "list[Result]"
) -> "Comparison":
    from prompt_distillation.evaluation.comparison_file import Comparison, make_cell

    cells: tuple[Cell, ...] = tuple(
        make_cell(run, result, _cost(config, run))
        for run, result in zip(runs, results, strict=True)
    )
    return Comparison(
        cells=cells,
        bill=_bill(config, cells),
        split=config.split,
        truth=results[0].truth,
        config=resolved(config),
        provenance=provenance(),
    )


def _cost(config: CompareConfig, run: "CellRun") -> "QueryCost | None":
    from prompt_distillation.evaluation.costs import TokenPrices, cost_by_time, cost_by_tokens

    if config.price_per_hour is not None:
        return cost_by_time(config.price_per_hour, queries_per_second=run.used.queries_per_second)
    teacher = run.plan.key.startswith("teacher")
    prompt = config.teacher_price_in if teacher else config.student_price_in
    completion = config.teacher_price_out if teacher else config.student_price_out
    if prompt is None or completion is None:
        return None
    return cost_by_tokens(
        TokenPrices(
            prompt=prompt,
            completion=completion,
            cached_prompt=config.teacher_price_cached if teacher else None,
        ),
        prompt_tokens=run.used.prompt_tokens_per_query,
        cached_tokens=(run.used.cached_tokens or 0) / len(run.predictions),
        completion_tokens=run.used.completion_tokens_per_query,
    )


def _bill(config: CompareConfig, cells: "tuple[Cell, ...]") -> "Bill | None":
    from prompt_distillation.evaluation.costs import reckon

    costs = {cell.key: cell.cost for cell in cells}
    teacher, student = costs.get("teacher"), costs.get("student")
    if teacher is None or student is None:
        return None
    return reckon(teacher, student, training_cost=_training_cost(config), currency=config.currency)


def _training_cost(config: CompareConfig) -> float:
    """What labelling and training cost: as told, or their hours at the machine's price."""
    if config.training_cost is not None:
        return config.training_cost
    if config.price_per_hour is None:
        logger.warning("The cost of labelling and training is taken as 0; see --training_cost.")
        return 0.0
    labelling = sibling(config.train_data_file, "manifest")
    training = Path(config.student_path) / "training_manifest.json"
    seconds = _seconds_of(labelling) + _seconds_of(training, "result")
    return seconds / 3600 * config.price_per_hour


def _seconds_of(path: Path, *keys: str) -> float:
    """The seconds that a manifest records, below ``keys``; 0, and a warning, where it does not."""
    try:
        fields: Any = read_json(path)
        for key in keys:
            fields = fields[key]
        return float(fields["seconds"])
    except (InputError, KeyError, TypeError, ValueError):
        logger.warning("%s does not say how long it took: its hours are not on the bill.", path)
        return 0.0
