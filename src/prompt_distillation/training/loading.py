"""The student's weights and tokenizer, loaded onto the device that trains."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prompt_distillation.errors import ModelError
from prompt_distillation.training.quantisation.four_bit import FourBitSettings

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is held in memory.

    Attributes:
        name: a folder, or a name on the hub.
        dtype: of the base weights. ``auto``: bfloat16 under an adapter on a GPU; float32 on a CPU
            (as fast there, and exact) and for a full fine-tune, whose small updates bfloat16
            would round away.
        attention: ``auto``, or an implementation by transformers' name.
        trust_remote_code: run Python code that ships with the model.
        init_options: further arguments of ``from_pretrained``.
        four_bit: how the base weights are quantised; None leaves them as they are.
    """

    name: str
    dtype: Dtype = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False
    init_options: dict[str, Any]
    four_bit: FourBitSettings | None = None


def load_tokenizer(settings: ModelSettings, *, chat_template_path: str | None) -> Any:
    """The tokenizer, with another chat template where one is given.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            settings.name, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {settings.name}: {error}") from error
    if chat_template_path is not None:
        path = Path(chat_template_path)
        if not path.is_file():
            raise ModelError(f"no such --chat_template_path: {path}")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    return tokenizer


def load_model(settings: ModelSettings, *, use_lora: bool, on_gpu: bool) -> Any:
    """The model, its weights on the device of this process, quantised as they come in.

    Raises:
        ModelError: it cannot be loaded, or is quantised already and shall be in 4 bits.
        ConfigError: a launcher that 4-bit weights do not go with.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from prompt_distillation.training.fused_norms import fuse_norms

    if settings.dtype == "auto":
        dtype = torch.bfloat16 if on_gpu and use_lora else torch.float32
    else:
        dtype = getattr(torch, settings.dtype)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": settings.trust_remote_code}
    if settings.attention != "auto":
        options["attn_implementation"] = settings.attention
    # FSDP and DeepSpeed place the weights themselves.
    sharded = "ACCELERATE_USE_FSDP" in os.environ or "ACCELERATE_USE_DEEPSPEED" in os.environ
    if on_gpu and not sharded:
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if settings.four_bit is not None:
        options["quantization_config"] = _four_bit_config(settings.name, settings.four_bit)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            settings.name, **(options | settings.init_options)
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load {settings.name}: {error}") from error
    if on_gpu:
        fuse_norms(model)
    return model


def _four_bit_config(name: str, settings: FourBitSettings) -> Any:
    from transformers import PretrainedConfig

    from prompt_distillation.training.quantisation.base_weights import FourBitConfig, check_launcher

    check_launcher()
    try:
        stored, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {name}: {error}") from error
    if "quantization_config" in stored:
        method = stored["quantization_config"].get("quant_method")
        raise ModelError(
            f"{name} is quantised already ({method}); --load_in_4bit takes the model in "
            "bfloat16, float16 or float32: name that one, or leave --load_in_4bit out"
        )
    return FourBitConfig(settings)
