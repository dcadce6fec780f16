"""`train`: fine-tune the student on the teacher's answers, with LoRA through TRL."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prompt_distillation.checkpoints import check_model
from prompt_distillation.cli.options import (
    check_range,
    option,
    parse_options_with_extra,
)
from prompt_distillation.cli.train_settings import (
    held_out_file,
    require_bitsandbytes,
    require_file,
    run_settings,
)
from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.errors import ConfigError
from prompt_distillation.training.methods.sft_options import refuse_misspelt
from prompt_distillation.training.tracking import tensorboard_folder

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


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Flags of the command; defaults are the reference hyperparameters."""

    train_file: Path = option(
        Path("./data/prompt_distillation_lang.jsonl"), "chat rows to train on"
    )
    eval_file: str = option(
        "auto", "chat rows for the held-out loss; auto: NAME.heldout.jsonl beside; none"
    )
    model_name: str = option("Qwen/Qwen3-30B-A3B-Instruct-2507", "student: hub name or folder")
    output_dir: Path = option(Path("./models/prompt_distillation_trl"), "folder of the result")
    use_lora: bool = option(True, "train an adapter; false trains every weight")
    lora_rank: int = option(32, "rank of the adapter of a linear layer")
    lora_alpha: int = option(16, "the adapter's update is scaled by alpha / rank")
    lora_expert_rank: int | None = option(
        None, "rank of the adapter of each expert; none: the rank over the experts per token"
    )
    lora_targets: str = option(
        "all-linear", "all-linear (attention and experts, not the router), attention, or names"
    )
    expert_lora: Literal["auto", "activations", "folded"] = option(
        "auto",
        "activations: an expert's adapter works on the tokens routed to it; folded: PEFT's way, "
        "into all experts on every pass (slower, more memory); auto: activations where supported",
    )
    num_train_epochs: float = option(1.0, "passes over the rows")
    per_device_train_batch_size: int = option(4, "rows per device and pass, before filling")
    gradient_accumulation_steps: int = option(4, "passes per optimizer step, before filling")
    fill_micro_batch: bool = option(
        True, "lay rows end to end and merge passes of one optimizer step; same loss, fewer passes"
    )
    learning_rate: float = option(2e-4, "highest learning rate")
    max_length: int = option(2048, "tokens of the longest row; longer ones are left out")
    warmup_ratio: float = option(0.03, "share of the steps with a rising learning rate, in [0, 1)")
    lr_scheduler_type: str = option("cosine_with_min_lr", "schedule, by transformers' name")
    min_lr_rate: float = option(0.1, "last learning rate over the highest (cosine_with_min_lr)")
    gradient_checkpointing: bool | None = option(
        None,
        "recompute activations: less memory, slower; none: unless they leave a tenth of the memory "
        "free, by the account that --dry_run prints",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", "of the base weights; auto: bfloat16 on a GPU with LoRA, else float32"
    )
    load_in_4bit: bool = option(
        False, "hold the base weights in 4 bits (QLoRA): a quarter of the memory, slower"
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = option("nf4", "values of the 4 bits")
    use_bnb_nested_quant: bool = option(
        False, "quantise the scales of the 4 bits too: 0.05 bytes less a weight"
    )
    bnb_4bit_experts: bool = option(
        True, "fused experts in 4 bits too; false: linear layers alone, as bitsandbytes does"
    )
    attn_implementation: str = option("auto", "attention, by transformers' name")
    chat_template_path: str | None = option(None, "a .jinja file instead of the student's template")
    report_to: Literal["wandb", "tensorboard", "none"] = option(
        "wandb", "tracker; wandb records offline without a login"
    )
    run_name: str | None = option(None, "name of the run in the tracker")
    resume_from_checkpoint: str = option("auto", "auto (newest of this run), none, or a folder")
    held_out_answers: int = option(
        64, "held-out rows answered by generation at each look, for eval_accuracy; 0: none"
    )
    early_stopping_patience: int | None = option(
        None, "looks without a better metric_for_best_model before training stops; none: never"
    )
    seed: int = option(0, "of adapter initialisation and row order")
    overwrite: bool = option(False, "replace a finished run in --output_dir")
    dry_run: bool = option(False, "count memory and steps without training, and propose flags")
    device_memory_gib: float | None = option(
        None, "card that --dry_run compares with, GiB; none: this machine's, or 80"
    )

    def __post_init__(self) -> None:
        for name in (
            "lora_rank", "lora_alpha", "lora_expert_rank", "per_device_train_batch_size",
            "gradient_accumulation_steps", "early_stopping_patience",
        ):  # fmt: skip
            check_range(name, getattr(self, name), low=1)
        check_range("max_length", self.max_length, low=8)
        check_range("warmup_ratio", self.warmup_ratio, low=0, high=0.999)
        check_range("min_lr_rate", self.min_lr_rate, low=0, high=1)
        check_range("learning_rate", self.learning_rate, low=0, high=1)
        check_range("seed", self.seed, low=0)
        check_range("held_out_answers", self.held_out_answers, low=0)
        check_range("device_memory_gib", self.device_memory_gib, low=1)
        if self.load_in_4bit and not self.use_lora:
            raise ConfigError(
                "--load_in_4bit freezes the base and trains an adapter on it; leave out "
                "--use_lora false, or --load_in_4bit"
            )
        if self.num_train_epochs <= 0:
            raise ConfigError(f"--num_train_epochs is {self.num_train_epochs}; it must be over 0")


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config, extra = parse_options_with_extra(
        TrainConfig, argv, description=DESCRIPTION, epilog=EPILOG
    )
    # Set before torch and the hub's client look at them.
    _keep_to_one_gpu(os.environ)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Checked before the libraries load: a wrong name or path answers at once.
    own_names = frozenset(field.name for field in fields(TrainConfig))
    refuse_misspelt(extra, own_names=own_names)
    check_model(config.model_name, weights=not config.dry_run)
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

        plot_training(config.output_dir / "log_history.json", config.output_dir / "plots")
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
    from prompt_distillation.cli.evaluate_config import EvaluateConfig

    default = EvaluateConfig()
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
