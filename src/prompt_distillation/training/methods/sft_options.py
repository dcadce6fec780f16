"""TRL's `SFTConfig` out of our own settings and any of its fields by its own name.

A field comes as a text (command line) or as YAML or Python typed it. Unknown names, values of the
wrong type and fields that would undo what this package promises are errors before a model is
loaded.
"""

import dataclasses
import difflib
import logging
import sys
import types
import warnings
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prompt_distillation.config import convert, settings_of, unknown_name
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.errors import ConfigError

logger = logging.getLogger(__name__)

FIXED = {
    "completion_only_loss": "the loss is on the answer only, by construction",
    "assistant_only_loss": "the loss is on answers only; --assistant_turns says on which",
    "dataset_text_field": "rows are chat messages",
    "dataset_kwargs": "rows are encoded before TRL sees them",
    "padding_free": "use --fill_micro_batch",
    "truncation_mode": "rows longer than --max_length are left out, never cut",
    "eos_token": "the end of a turn is the model's own",
    "remove_unused_columns": "the columns are this command's own",
    "warmup_ratio": "it is a flag of this command",
    "logging_nan_inf_filter": "a loss that is not a number stops the run",
    "teacher_model_name_or_path": "use --teacher_model",
    "teacher_model_revision": "use --teacher_revision",
    "teacher_model_init_kwargs": "use --teacher_dtype and the other flags of the teacher",
}
"""Fields of TRL's configurations that are not the user's to set, with what to do instead."""

_STRICTEST_FIRST = (bool, int, float, list, dict, str)


def own_names() -> frozenset[str]:
    """The settings that are this package's own."""
    return frozenset(setting.name for setting in settings_of(TrainConfig))


def refuse_misspelt(options: Mapping[str, Any]) -> None:
    """Refuse a misspelt name of our own settings, before TRL's seconds of import."""
    for name in options:
        # At 0.9 no field of SFTConfig is taken for a misspelt setting.
        close = difflib.get_close_matches(name, sorted(own_names()), n=1, cutoff=0.9)
        if close:
            raise ConfigError(f"unknown flag or key {name!r}; did you mean {close[0]!r}?")


def trl_class(name: str) -> Any:
    """``SFTConfig`` or ``DistillationConfig`` of TRL, which takes seconds to import."""
    import trl

    return getattr(trl, name)


def check_sft_options(options: Mapping[str, Any], trl_config: str = "SFTConfig") -> dict[str, Any]:
    """Convert options to the types of the fields of TRL's configuration.

    Args:
        options: name -> text of the command line, True for a bare flag, or a value of YAML.
        trl_config: name of that class.

    Raises:
        ConfigError: an unknown name (the closest one is named), a fixed field, a wrong type.
    """
    kind = trl_class(trl_config)
    hints = get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    converted: dict[str, Any] = {}
    for name, value in options.items():
        if name in FIXED:
            raise ConfigError(f"--{name} cannot be set: {FIXED[name]}")
        if name not in fields:
            raise ConfigError(unknown_name(name, dict.fromkeys(sorted(own_names() | fields))))
        converted[name] = _convert(name, value, hints[name], trl_config)
    return converted


def _convert(name: str, value: Any, hint: Any, trl_config: str) -> Any:
    """The value as the first of a hint's alternatives that it fits."""
    kinds = _alternatives(hint)
    if (value is None or value in ("none", "None")) and types.NoneType in kinds:
        return None
    if isinstance(value, str) and value.startswith(("{", "[")):
        value = _collection(name, value)
    for kind in kinds:
        if kind is list and isinstance(value, list):
            return value
        if kind in (list, types.NoneType):
            continue
        try:
            return convert(value, kind, name=name)
        except ConfigError:
            logger.debug("--%s %r is not of type %s", name, value, kind)
    raise ConfigError(
        f"--{name} is {value!r}; {trl_config} takes {' or '.join(map(_shown, kinds))}"
    )


def _collection(name: str, text: str) -> Any:
    """A mapping or list of the command line, as YAML (and so JSON) writes it."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name} is {text!r}; it is neither JSON nor YAML") from error


def _alternatives(hint: Any) -> list[Any]:
    """What `convert` may take a value for, the strictest first."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [get_origin(part) or part for part in parts]
    choices = [part for part in plain if isinstance(part, type) and issubclass(part, Enum)]
    if choices:
        # "OptimizerNames | str": only the enum says what is allowed.
        values = tuple(member.value for kind in choices for member in kind)
        return [Literal[values], *(kind for kind in plain if kind is types.NoneType)]
    order = [kind for kind in _STRICTEST_FIRST if kind in plain]
    typed = [dict[str, Any] if kind is dict else kind for kind in order]
    return [*typed, *(kind for kind in plain if kind is types.NoneType)]


def _shown(kind: Any) -> str:
    if kind is types.NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    return str(getattr(get_origin(kind) or kind, "__name__", kind))


def sft_values(
    config: TrainConfig, options: Mapping[str, Any], *, has_held_out: bool
) -> dict[str, Any]:
    """Values for SFTConfig: our defaults, our settings, and what the user named on top."""
    use_cpu = not uses_gpu(options)
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
        # It would put the mean of the steps before in place of a loss that is not a number.
        "logging_nan_inf_filter": False,
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
        # The best checkpoint is kept and loaded at the end; each evaluation may be the best.
        values |= {"load_best_model_at_end": True, "save_steps": values["eval_steps"]}
    if config.lr_scheduler_type == "cosine_with_min_lr":
        values["lr_scheduler_kwargs"] = {"min_lr_rate": config.min_lr_rate}
    return values | dict(options)


def uses_gpu(options: Mapping[str, Any]) -> bool:
    """Whether a run is on a GPU."""
    import torch

    on_gpu = torch.cuda.is_available()
    if options.get("use_cpu") is False and not on_gpu:
        raise ConfigError("--use_cpu is false, but there is no GPU here; leave it out")
    return on_gpu and not options.get("use_cpu", False)


def build_sft_config(values: Mapping[str, Any], trl_config: str = "SFTConfig") -> Any:
    """Construct TRL's configuration, its own refusals turned into ours."""
    kind = trl_class(trl_config)
    try:
        with warnings.catch_warnings():
            # What is deprecated there is named by the user, who sees it in the release notes.
            warnings.simplefilter("ignore", FutureWarning)
            config = kind(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{trl_config} refuses the options: {error}") from error
    if "paged" in config.optim and config.device.type == "cpu":
        logger.info(
            "--optim %s: a paged optimizer pages nothing on a CPU; used as it is", config.optim
        )
        # bitsandbytes says it at the first step, once for each kind of tensor (0.50.2).
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    return config
