"""From the flags of `train` to what the training library takes: plain values, and SFTConfig's."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.config import flat
from prompt_distillation.data.files import sibling
from prompt_distillation.errors import ConfigError, InputError

if TYPE_CHECKING:
    from prompt_distillation.training.quantisation.four_bit import FourBitSettings
    from prompt_distillation.training.settings import RunSettings
    from prompt_distillation.training.train_config import TrainConfig


def held_out_file(config: "TrainConfig") -> Path | None:
    """The held-out rows: named, or beside the training file where they exist."""
    if config.eval_file == "none":
        return None
    if config.eval_file == "auto":
        path = sibling(config.train_file, "heldout")
        return path if path.is_file() and path.stat().st_size else None
    path = Path(config.eval_file)
    require_file(path)
    return path


def run_settings(
    config: "TrainConfig", options: Mapping[str, Any], eval_file: Path | None
) -> "RunSettings":
    """Turn flags into plain values for the library."""
    from prompt_distillation.training.loading import ModelSettings
    from prompt_distillation.training.lora.adapter import LoraSettings
    from prompt_distillation.training.settings import RunSettings

    lora = LoraSettings(
        rank=config.lora.lora_rank,
        alpha=config.lora.lora_alpha,
        expert_rank=config.lora.lora_expert_rank,
        targets=config.lora.lora_targets,
        expert_lora=config.lora.expert_lora,
    )
    model = ModelSettings(
        name=config.model.model_name,
        dtype=config.model.dtype,
        attention=config.attn_implementation,
        trust_remote_code=config.model.trust_remote_code,
        init_options=_init_options(config, options),
        four_bit=_four_bit(config),
    )
    return RunSettings(
        train_file=config.train_file,
        eval_file=eval_file,
        output_dir=config.output_dir,
        model=model,
        lora=lora if config.lora.use_lora else None,
        sft=sft_values(config, options, has_held_out=eval_file is not None),
        max_length=config.max_length,
        # A pass never holds more than the reference's 4 rows of full length would.
        max_tokens_per_pass=config.max_length * config.per_device_train_batch_size
        if config.fill_micro_batch
        else None,
        chat_template_path=config.chat_template_path,
        resume=config.resume_from_checkpoint,
        overwrite=config.overwrite,
        answered_rows=config.held_out_answers,
        patience=config.early_stopping_patience,
        record=flat(config) | dict(options),
    )


def _four_bit(config: "TrainConfig") -> "FourBitSettings | None":
    from prompt_distillation.training.quantisation.four_bit import FourBitSettings

    if not config.four_bit.load_in_4bit:
        return None
    return FourBitSettings(
        quant_type=config.four_bit.bnb_4bit_quant_type,
        double_quant=config.four_bit.use_bnb_nested_quant,
        experts=config.four_bit.bnb_4bit_experts,
    )


def _init_options(config: "TrainConfig", options: Mapping[str, Any]) -> dict[str, Any]:
    init_options = dict(options.get("model_init_kwargs") or {})
    if config.four_bit.load_in_4bit and "quantization_config" in init_options:
        raise ConfigError(
            "--model_init_kwargs names a quantization_config, and --load_in_4bit is one; leave "
            "out one of the two"
        )
    return init_options


def sft_values(
    config: "TrainConfig", options: Mapping[str, Any], *, has_held_out: bool
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
        "router_aux_loss_coef": 0.0 if config.lora.use_lora else None,
    }
    if config.early_stopping_patience is not None or "metric_for_best_model" in options:
        if not has_held_out:
            raise ConfigError(
                "early stopping and metric_for_best_model need held-out rows; pass --eval_file"
            )
        # The best checkpoint is kept and loaded at the end; each look may be the best.
        values |= {"load_best_model_at_end": True, "save_steps": values["eval_steps"]}
    if config.lr_scheduler_type == "cosine_with_min_lr":
        values["lr_scheduler_kwargs"] = {"min_lr_rate": config.min_lr_rate}
    return values | dict(options)


def require_bitsandbytes(config: "TrainConfig", options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where 4-bit weights or an 8-bit optimizer cannot be had."""
    optimizer = str(options.get("optim", ""))
    wanted = ["--load_in_4bit"] if config.four_bit.load_in_4bit else []
    # PyTorch's own 8-bit AdamW (adamw_torch_8bit) is torchao's.
    if any(part in optimizer for part in ("8bit", "paged", "bnb")) and "torch" not in optimizer:
        wanted.append(f"--optim {optimizer}")
    # The plan counts from shapes alone.
    if wanted and not config.dry_run and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{wanted[0]} needs the package bitsandbytes: pip install bitsandbytes")


def require_file(path: Path) -> None:
    """Raise `InputError` unless there is such a file."""
    if not path.is_file():
        raise InputError(
            f"no such file: {path}; label some inputs first with create_data.py, or check the path "
            f"(the current folder is {Path.cwd()})"
        )
