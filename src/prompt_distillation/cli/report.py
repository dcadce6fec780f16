"""`scripts/report.py`: an evaluation or a comparison as a page, charts, W&B run, model card."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import Settings, option
from prompt_distillation.data.files import (
    atomic_writer,
    refuse_to_overwrite,
    refuse_unsafe_outputs,
)
from prompt_distillation.data.judgement import JUDGEMENT_FILE
from prompt_distillation.data.training_files import read_history
from prompt_distillation.errors import ConfigError, InputError

if TYPE_CHECKING:  # what these import takes longer than --help may
    from prompt_distillation.data.comparison import Comparison
    from prompt_distillation.data.probes import Probes
    from prompt_distillation.data.results import Result

logger = logging.getLogger(__name__)

TRAINING_PICTURE = "training_loss"

DESCRIPTION = """Show what was measured: one HTML page that needs no network, and its charts.

  python scripts/report.py                                   from ./evaluation_results.json
  python scripts/report.py --comparison_dir ./comparison     all models, latency and cost
  python scripts/report.py --report_to wandb --model_card"""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Options of `report.py`."""

    result_file: Path = option(Path("./evaluation_results.json"), "result that evaluate.py wrote")
    comparison_dir: Path | None = option(
        None, "folder that compare.py wrote; shows all its models, instead of --result_file"
    )
    judge_dir: Path | None = option(None, "folder that judge.py wrote; shows its verdicts")
    probes_file: Path | None = option(
        None, "result that probe.py wrote; none: probes.json in --comparison_dir, if it is there"
    )
    load_file: Path | None = option(
        None, "figures that benchmarks/serving_load.py wrote; shows the models under load"
    )
    model_path: Path = option(
        Path("./models/prompt_distillation_trl"),
        "the student's folder, for its training loss and its model card",
    )
    output_file: Path = option(Path("./report.html"), "the HTML page")
    plots_dir: Path = option(Path("./plots"), "folder of the charts, as PNG files")
    overwrite: bool = option(False, "replace an older report")
    report_to: Literal["none", "wandb"] = option(
        "none", "also log the summary, the errors and the confusion matrix to W&B"
    )
    model_card: bool = option(False, "also write the results into the model card of --model_path")


def main(argv: Sequence[str]) -> int | None:
    """Report as ``argv`` says."""
    config = parse_options(ReportConfig, argv, description=DESCRIPTION)
    from prompt_distillation.data.judgement import read_judgement
    from prompt_distillation.data.load_test import read_load_test
    from prompt_distillation.report.evaluation_plots import plot_all
    from prompt_distillation.report.page import PageParts, build_page
    from prompt_distillation.report.terminal import make_console, print_lines
    from prompt_distillation.report.training_plots import plot_training

    _check_outputs(config)
    results, comparison = _read(config)
    title = _main_title(results, comparison)
    judgement = read_judgement(_judge_file(config)) if config.judge_dir else None
    probes = _read_probes(config)
    load = read_load_test(config.load_file) if config.load_file else None
    if config.model_card:
        _check_card(config, results[title])
    pictures = plot_all(results, comparison, config.plots_dir)
    history = read_history(config.model_path)
    pictures += plot_training(history, config.plots_dir, charts=[TRAINING_PICTURE])
    page = build_page(
        PageParts(
            results=results,
            main=title,
            comparison=comparison,
            scored=_scored(config, comparison),
            judgement=judgement,
            pictures=pictures,
            probes=probes,
            load=load,
        )
    )
    with atomic_writer(config.output_file) as file:
        file.write(page)
    lines = [f"Page:     {config.output_file}", f"Pictures: {config.plots_dir} ({len(pictures)})"]
    lines += _publish(config, results[title], title)
    print_lines(make_console(), lines)
    return None


def _check_outputs(config: ReportConfig) -> None:
    """Refuse to replace anything but an older report, before results are read."""
    from prompt_distillation.report.evaluation_plots import (
        PICTURES,
        is_own_folder,
        is_own_picture,
    )
    from prompt_distillation.report.page import is_own_page

    if config.plots_dir.exists() and not config.plots_dir.is_dir():
        raise ConfigError(f"--plots_dir {config.plots_dir} is not a folder; choose another one")
    pictures = [config.plots_dir / f"{name}.png" for name in (*PICTURES, TRAINING_PICTURE)]
    read = [config.probes_file, config.load_file]
    read += sorted(config.comparison_dir.glob("*.json")) if config.comparison_dir else []
    read += [] if config.comparison_dir else [config.result_file]
    read += [_judge_file(config)] if config.judge_dir else []
    refuse_unsafe_outputs([config.output_file], read, is_ours=is_own_page)
    refuse_unsafe_outputs([config.plots_dir], [], is_ours=is_own_folder)
    refuse_unsafe_outputs(pictures, read, is_ours=is_own_picture)
    refuse_to_overwrite([config.output_file, *pictures], overwrite=config.overwrite)


def _judge_file(config: ReportConfig) -> Path:
    return (config.judge_dir or Path()) / JUDGEMENT_FILE


def _read(config: ReportConfig) -> "tuple[dict[str, Result], Comparison | None]":
    """Title -> evaluation, and the comparison that they belong to."""
    from prompt_distillation.data.comparison import COMPARISON_FILE
    from prompt_distillation.data.result_files import read_comparison, read_result

    if config.comparison_dir is None:
        result = read_result(config.result_file)
        return {Path(result.adapter or result.base_model).name: result}, None
    comparison = read_comparison(config.comparison_dir / COMPARISON_FILE)
    results = {
        cell.title: read_result(config.comparison_dir / cell.result_file)
        for cell in comparison.cells
    }
    texts = {tuple(item.text for item in result.predictions) for result in results.values()}
    if len(texts) != 1:
        raise InputError(
            f"the results in {config.comparison_dir} are about different inputs; run compare again"
        )
    student = comparison.cell("student")
    if student is not None and comparison.confidence is not None:
        # Its labels were scored in a run of their own.
        shown = comparison.confidence.shown
        results[student.title] = replace(results[student.title], confidence=shown)
    return results, comparison


def _read_probes(config: ReportConfig) -> "Probes | None":
    """What the probes measured, where they were made."""
    from prompt_distillation.data.probes import PROBES_FILE, read_probes

    path = config.probes_file
    if path is None and config.comparison_dir is not None:
        beside = config.comparison_dir / PROBES_FILE
        path = beside if beside.is_file() else None
    return read_probes(path) if path is not None else None


def _scored(config: ReportConfig, comparison: "Comparison | None") -> "Result | None":
    """The evaluation of the student's scored labels, where a comparison has one."""
    from prompt_distillation.data.result_files import read_result

    if config.comparison_dir is None or comparison is None or comparison.confidence is None:
        return None
    return read_result(config.comparison_dir / comparison.confidence.result_file)


def _main_title(results: "dict[str, Result]", comparison: "Comparison | None") -> str:
    """Whom the page is about: the distilled student, or the only one there is."""
    student = comparison.cell("student") if comparison else None
    return student.title if student else next(iter(results))


def _check_card(config: ReportConfig, result: "Result") -> None:
    """Keep the results of one model out of the card of another, before anything is written.

    The folders' names are compared, because a model may have moved since. Whose predictions a file
    of predictions holds is unknown.
    """
    from prompt_distillation.data.model_card import require_model

    require_model(config.model_path)
    if result.config.get("predictions_file"):
        return
    if Path(result.model_path).resolve().name != config.model_path.resolve().name:
        raise ConfigError(
            f"--model_card would write the results of {result.model_path} into the card of "
            f"{config.model_path}; pass the folder of the model that was measured as --model_path"
        )


def _publish(config: ReportConfig, result: "Result", title: str) -> list[str]:
    """Log to W&B and write the card, where asked for; says what was done."""
    lines = []
    if config.report_to == "wandb":
        from prompt_distillation.report.wandb_log import log_to_wandb
        from prompt_distillation.training.tracking import prepare_tracking

        prepare_tracking(["wandb"], output_dir=config.output_file.parent)
        lines.append(f"W&B run:  {log_to_wandb(result, name=f'evaluation: {title}')}")
    if config.model_card:
        from prompt_distillation.data.model_card import update_model_card

        lines.append(f"Card:     {update_model_card(config.model_path, result)}")
    return lines
