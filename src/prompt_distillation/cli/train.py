"""`train`: fine-tune the student on the teacher's answers, with LoRA through TRL."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.cli.options import parse_options_with_extra
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.data.training_files import PLOTS_FOLDER, read_history
from prompt_distillation.training.run import plan_training, train
from prompt_distillation.training.tracking import tensorboard_folder

if TYPE_CHECKING:
    from prompt_distillation.training.manifest import TrainResult

DESCRIPTION = """\
Fine-tune the student on the dataset that create_data.py wrote: loss on the answers only.
"""

EPILOG = """\
Every other field of TRL's SFTConfig (with --method on_policy, of its DistillationConfig) is a flag
by its own name, e.g. --optim adamw_8bit, --logging_steps 5, --save_total_limit 3, --beta 0.5.
Flags may stand in a YAML file: --config recipes/cpu-example-train.yaml
"""


def main(argv: Sequence[str]) -> int | None:
    """Run the command; with ``--dry_run``, exit code 1 says that the run does not fit."""
    config, options = parse_options_with_extra(
        TrainConfig, argv, description=DESCRIPTION, epilog=EPILOG
    )
    from rich.console import Console

    is_main = os.environ.get("RANK", "0") == "0"
    console = Console(quiet=not is_main)
    if config.dry_run:
        plan = plan_training(config, options)
        from prompt_distillation.training.loss_log import show_plan

        show_plan(console, plan)
        return 0 if plan.fits else 1
    result = train(config, options, console=console)
    if is_main:
        from prompt_distillation.report.training_plots import plot_training

        plot_training(read_history(config.output_dir), config.output_dir / PLOTS_FOLDER)
        _show_result(console, config, result)
    return None


def _show_result(console: Any, config: TrainConfig, result: "TrainResult") -> None:
    rate = result.rows_seen / (result.seconds - result.evaluation_seconds)
    evaluation = result.evaluation_seconds
    apart = f" without {evaluation:.1f} s of evaluation" if evaluation else ""
    lines = [f"{result.steps} steps in {result.seconds:.1f} s ({rate:.1f} rows/s{apart})"]
    if result.held_out_loss:
        before, after = result.held_out_loss
        lines.append(f"held-out loss {before:.4f} before, {after:.4f} after (nats per token)")
    accuracy = result.held_out_accuracy
    if accuracy:
        before_it = "" if accuracy.before is None else f"{accuracy.before:.1%} before, "
        lines.append(f"held-out accuracy by generation: {before_it}after {accuracy}")
    lines.append(f"saved to {config.output_dir}")
    if result.sync_hint:
        lines.append(f"W&B run recorded offline; upload it with: {result.sync_hint}")
    if config.report_to == "tensorboard":
        folder = shlex.quote(tensorboard_folder(config.output_dir))
        lines.append(f"see the curves with: tensorboard --logdir {folder}")
    lines.append(f"next: {next_command(config)}")
    for line in lines:
        console.print(line, soft_wrap=True)


def next_command(config: TrainConfig) -> str:
    """The evaluation of what was trained, on the task and inputs that the dataset was made of."""
    from prompt_distillation.config.evaluate_config import TestConfig

    default = TestConfig()
    words = ["--model_path", config.output_dir, "--train_data_file", config.train_file]
    manifest = sibling(config.train_file, "manifest")
    if manifest.is_file():
        made = read_json(manifest)
        task, inputs = made.get("task", {}).get("path"), made.get("input_file")
        if task and Path(task) != default.task:
            words += ["--task", task]
        if inputs and Path(inputs) != default.test_file:
            words += ["--test_file", inputs]
    return f"python evaluate.py {shlex.join(map(str, words))}"
