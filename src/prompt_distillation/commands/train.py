"""`train`: fine-tune the student on the teacher's answers, with LoRA through TRL."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prompt_distillation.commands.options import (
    check_range,
    option,
    parse_options_with_extra,
    resolved,
)
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.files import sibling

if TYPE_CHECKING:
    from prompt_distillation.training.run import RunResult, RunSettings

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
    gradient_checkpointing: bool = option(True, "recompute activations: less memory, slower")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", "of the base weights; auto: bfloat16 on a GPU with LoRA, else float32"
    )
    attn_implementation: str = option("auto", "attention, by transformers' name")
    chat_template_path: str | None = option(None, "a .jinja file instead of the student's template")
    report_to: Literal["wandb", "tensorboard", "none"] = option(
        "wandb", "tracker; wandb records offline without a login"
    )
    run_name: str | None = option(None, "name of the run in the tracker")
    resume_from_checkpoint: str = option("auto", "auto (newest of this run), none, or a folder")
    seed: int = option(0, "of adapter initialisation and row order")
    overwrite: bool = option(False, "replace a finished run in --output_dir")

    def __post_init__(self) -> None:
        for name in (
            "lora_rank", "lora_alpha", "lora_expert_rank", "per_device_train_batch_size",
            "gradient_accumulation_steps",
        ):  # fmt: skip
            check_range(name, getattr(self, name), low=1)
        check_range("max_length", self.max_length, low=8)
        check_range("warmup_ratio", self.warmup_ratio, low=0, high=0.999)
        check_range("min_lr_rate", self.min_lr_rate, low=0, high=1)
        check_range("learning_rate", self.learning_rate, low=0, high=1)
        check_range("seed", self.seed, low=0)
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
    # Checked before the libraries load: a wrong path answers at once.
    from prompt_distillation.training.loading import check_model_path

    check_model_path(config.model_name)
    eval_file = held_out_file(config)
    _require_file(config.train_file)

    from rich.console import Console

    from prompt_distillation.training.run import train
    from prompt_distillation.training.sft import check_sft_options

    own_names = frozenset(field.name for field in fields(TrainConfig))
    options = check_sft_options(extra, own_names=own_names)
    is_main = os.environ.get("RANK", "0") == "0"
    console = Console(quiet=not is_main)
    result = train(run_settings(config, options, eval_file), console)
    if is_main:
        _show_result(console, config, result)
    return None


def held_out_file(config: TrainConfig) -> Path | None:
    """The held-out rows: named, or beside the training file where they exist."""
    if config.eval_file == "none":
        return None
    if config.eval_file == "auto":
        path = sibling(config.train_file, "heldout")
        return path if path.is_file() and path.stat().st_size else None
    path = Path(config.eval_file)
    _require_file(path)
    return path


def run_settings(
    config: TrainConfig, options: Mapping[str, Any], eval_file: Path | None
) -> "RunSettings":
    """Turn flags into plain values for the library."""
    from prompt_distillation.training.adapter import LoraSettings
    from prompt_distillation.training.loading import ModelSettings
    from prompt_distillation.training.run import RunSettings

    lora = LoraSettings(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        expert_rank=config.lora_expert_rank,
        targets=config.lora_targets,
    )
    model = ModelSettings(
        name=config.model_name,
        dtype=config.dtype,
        attention=config.attn_implementation,
        trust_remote_code=bool(options.get("trust_remote_code", False)),
        init_options=dict(options.get("model_init_kwargs") or {}),
    )
    return RunSettings(
        train_file=config.train_file,
        eval_file=eval_file,
        output_dir=config.output_dir,
        model=model,
        lora=lora if config.use_lora else None,
        sft=sft_values(config, options, has_held_out=eval_file is not None),
        max_length=config.max_length,
        # A pass never holds more than the reference's 4 rows of full length would.
        max_tokens_per_pass=config.max_length * config.per_device_train_batch_size
        if config.fill_micro_batch
        else None,
        chat_template_path=config.chat_template_path,
        resume=config.resume_from_checkpoint,
        overwrite=config.overwrite,
        record=resolved(config) | dict(options),
    )


def sft_values(
    config: TrainConfig, options: Mapping[str, Any], *, has_held_out: bool
) -> dict[str, Any]:
    """Values for SFTConfig: our defaults, our flags, and what the user named on top."""
    import torch

    on_gpu = torch.cuda.is_available()
    if options.get("use_cpu") is False and not on_gpu:
        raise ConfigError("--use_cpu is false, but there is no GPU here; leave it out")
    use_cpu = bool(options.get("use_cpu", not on_gpu))
    values: dict[str, Any] = {
        "output_dir": str(config.output_dir),
        "num_train_epochs": config.num_train_epochs,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.learning_rate,
        # transformers 5 has no warmup_ratio: below 1 it is a share of the steps.
        "warmup_steps": config.warmup_ratio,
        "lr_scheduler_type": config.lr_scheduler_type,
        "gradient_checkpointing": config.gradient_checkpointing,
        "report_to": config.report_to,
        "run_name": config.run_name or config.output_dir.name,
        "seed": config.seed,
        "use_cpu": use_cpu,
        # On a CPU bfloat16 is no faster than float32 without AMX, and less exact.
        "bf16": not use_cpu,
        "dataloader_pin_memory": not use_cpu,
        "per_device_eval_batch_size": 4 * config.per_device_train_batch_size,
        "logging_steps": 1,
        "disable_tqdm": not sys.stderr.isatty(),
        "save_steps": 0.2,
        "save_total_limit": 2,
        "eval_strategy": "steps" if has_held_out else "no",
        "eval_steps": 0.1,
        "eval_on_start": has_held_out,
        # The trainer of a frozen router has no load to balance, and the loss shown is the answer's.
        "router_aux_loss_coef": 0.0 if config.use_lora else None,
    }
    if config.lr_scheduler_type == "cosine_with_min_lr":
        values["lr_scheduler_kwargs"] = {"min_lr_rate": config.min_lr_rate}
    return values | dict(options)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"no such file: {path}; label some inputs first with create_data.py, or check the path "
            f"(the current folder is {Path.cwd()})"
        )


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
    rate = result.rows * config.num_train_epochs / result.seconds
    console.print(f"{result.steps} steps in {result.seconds:.1f} s ({rate:.1f} rows/s)")
    if result.held_out_loss:
        before, after = result.held_out_loss
        console.print(f"held-out loss {before:.4f} before, {after:.4f} after (nats per token)")
    console.print(f"saved to {config.output_dir}", soft_wrap=True)
    if result.sync_hint:
        console.print(
            f"W&B run recorded offline; upload it with: {result.sync_hint}", soft_wrap=True
        )
    console.print(
        f"next: python evaluate.py --model_path {config.output_dir} "
        f"--train_data_file {config.train_file}",
        soft_wrap=True,
    )
