"""`train`: fine-tune the student on the teacher's answers, with LoRA through TRL."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.checkpoints import check_model
from prompt_distillation.cli.options import parse_options_with_extra
from prompt_distillation.cli.train_settings import (
    held_out_file,
    require_bitsandbytes,
    require_file,
    run_settings,
)
from prompt_distillation.config import settings_of
from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.data.run_files import PLOTS_FOLDER, read_history
from prompt_distillation.training.methods.sft_options import refuse_misspelt
from prompt_distillation.training.tracking import tensorboard_folder
from prompt_distillation.training.train_config import TrainConfig

if TYPE_CHECKING:
    from prompt_distillation.training.manifest import RunResult
    from prompt_distillation.training.settings import RunSettings

DESCRIPTION = """\
Fine-tune the student on the dataset that create_data.py wrote: loss on the answers only.
"""

EPILOG = """\
Every other field of TRL's SFTConfig is a flag by its own name, e.g. --optim adamw_8bit,
--logging_steps 5, --save_total_limit 3, --load_best_model_at_end. Flags may stand in a YAML file:
--config recipes/cpu-example-train.yaml
"""


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config, extra = parse_options_with_extra(
        TrainConfig, argv, description=DESCRIPTION, epilog=EPILOG
    )
    # Set before torch and the hub's client look at them.
    _keep_to_one_gpu(os.environ)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Checked before the libraries load: a wrong name or path answers at once.
    own_names = frozenset(setting.name for setting in settings_of(TrainConfig))
    refuse_misspelt(extra, own_names=own_names)
    check_model(config.model.model_name, weights=not config.dry_run)
    eval_file = held_out_file(config)
    require_file(config.train_file)
    require_bitsandbytes(config, extra)

    from rich.console import Console

    from prompt_distillation.training.methods.sft_options import check_sft_options
    from prompt_distillation.training.run import train

    options = check_sft_options(extra, own_names=own_names)
    is_main = os.environ.get("RANK", "0") == "0"
    console = Console(quiet=not is_main)
    settings = run_settings(config, options, eval_file)
    if config.dry_run:
        return _dry_run(config, settings, console)
    result = train(settings, console)
    if is_main:
        from prompt_distillation.report.training_plots import plot_training

        plot_training(read_history(config.output_dir), config.output_dir / PLOTS_FOLDER)
        _show_result(console, config, result)
    return None


def _dry_run(config: TrainConfig, settings: "RunSettings", console: Any) -> int:
    """Print the plan; exit code 1 says that it does not fit."""
    import torch

    from prompt_distillation.training.display import show_plan
    from prompt_distillation.training.memory.plan import memory_gib, plan_run

    here = memory_gib(on_gpu=True) if torch.cuda.is_available() else 80.0
    # The account of a machine without a GPU is of the card it is planned for.
    plan = plan_run(settings, capacity_gib=config.device_memory_gib or here, on_gpu=True)
    show_plan(console, plan)
    return 0 if plan.fits else 1


def _keep_to_one_gpu(environment: dict[str, str] | Any) -> None:
    """Without a launcher one process trains on one GPU; TRL refuses to see more.

    ``accelerate launch`` (``NUM_PROCESSES=8 bash train_trl.sh``) uses them all.
    """
    if "LOCAL_RANK" in environment or shutil.which("nvidia-smi") is None:
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60
        )
        visible = ",".join(str(i) for i in range(len(listed.stdout.splitlines())))
    if "," in visible:
        environment["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]


def _show_result(console: Any, config: TrainConfig, result: "RunResult") -> None:
    rate = result.rows_seen / (result.seconds - result.looking_seconds)
    looks = result.looking_seconds
    apart = f" without the {looks:.1f} s of looks at held-out rows" if looks else ""
    console.print(
        f"{result.steps} steps in {result.seconds:.1f} s ({rate:.1f} rows/s{apart})", soft_wrap=True
    )
    if result.held_out_loss:
        before, after = result.held_out_loss
        console.print(f"held-out loss {before:.4f} before, {after:.4f} after (nats per token)")
    if result.held_out_accuracy:
        before, after = result.held_out_accuracy
        console.print(f"held-out accuracy by generation {before:.1%} before, {after:.1%} after")
    console.print(f"saved to {config.output_dir}", soft_wrap=True)
    if result.sync_hint:
        console.print(
            f"W&B run recorded offline; upload it with: {result.sync_hint}", soft_wrap=True
        )
    if config.report_to == "tensorboard":
        folder = shlex.quote(tensorboard_folder(config.output_dir))
        console.print(f"see the curves with: tensorboard --logdir {folder}", soft_wrap=True)
    console.print(f"next: {next_command(config)}", soft_wrap=True)


def next_command(config: TrainConfig) -> str:
    """The evaluation of what was trained, on the task and inputs that the dataset was made of."""
    from prompt_distillation.evaluation.evaluate_config import TestConfig

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
