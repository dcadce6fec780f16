"""Which weights of a student are held in four bits, and how they get there without the whole model.

transformers loads a checkpoint tensor by tensor and lets a quantiser have each of them before the
next one is read; its own for bitsandbytes knows linear layers only (5.19). This one takes the fused
expert stacks as well: a layer's experts are put together on the device, quantised, and let go.
Embeddings, output embedding, routers and norms stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from prompt_distillation.config.train_config import FourBitConfig
from prompt_distillation.training.lora.adapter import expert_kinds, kind_of, linear_kinds
from prompt_distillation.training.quantisation.four_bit import (
    FourBitTensor,
    bytes_per_number,
    quantise,
)

_METHOD = "prompt_distillation_4bit"


@register_quantization_config(_METHOD)
class FourBitQuantization(QuantizationConfigMixin):  # type: ignore[misc]
    """What `from_pretrained` is given as its ``quantization_config``."""

    def __init__(self, settings: FourBitConfig) -> None:
        super().__init__(quant_method=_METHOD)
        self.settings = settings


@register_quantizer(_METHOD)
class FourBitQuantizer(HfQuantizer):  # type: ignore[misc]
    """Quantises each weight of `quantised_names` while it is loaded."""

    def is_serializable(self) -> bool:
        """Only adapters are saved; the base is quantised again when it is loaded."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Under an adapter."""
        return True

    def _process_model_before_weight_loading(self, model: Any, **unused: Any) -> None:
        self._names = frozenset(quantised_names(model, self.quantization_config.settings))

    def param_needs_quantization(self, model: Any, param_name: str, **unused: Any) -> bool:
        """Whether the loader shall hand the weight over."""
        return param_name in self._names

    def param_element_size(self, model: Any, param_name: str, param: torch.Tensor) -> float:
        """Bytes a number, by which the loader takes memory of a GPU beforehand."""
        return 0.5 if param_name in self._names else float(param.element_size())

    def get_quantize_ops(self) -> ConversionOps:
        """The last step of a weight's conversion."""
        return _Quantise(self.quantization_config.settings)

    def _process_model_after_weight_loading(self, model: Any, **unused: Any) -> None:
        # From here on the model is an ordinary one with unusual tensors: what libraries do to
        # bitsandbytes' layers (TRL rounds adapters to bfloat16, in which a small step is lost) is
        # not meant for it.
        self.remove_quantization_config(model)
        for module in model.modules():
            if hasattr(module, "config"):
                module.config._is_quantized = False


class _Quantise(ConversionOps):  # type: ignore[misc]
    def __init__(self, settings: FourBitConfig) -> None:
        self._settings = settings

    def convert(self, input_dict: dict[str, Any], **unused: Any) -> dict[str, Any]:
        converted = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            quantised = quantise(weight, self._settings)
            converted[name] = torch.nn.Parameter(quantised, requires_grad=False)
        return converted


def quantised_names(model: Any, settings: FourBitConfig) -> Iterator[str]:
    """Full names of the weights that are quantised: linear layers of the blocks, and experts."""
    linear = {f"{kind}.weight" for kind in linear_kinds(model)}
    experts = set(expert_kinds(model)) if settings.bnb_4bit_experts else set()
    for name, _ in model.named_parameters():
        if kind_of(name) in linear | experts:
            yield name


def leave_to_each_process(model: Any) -> None:
    """Let DDP neither compare nor broadcast 4-bit weights: every process has loaded the same."""
    held = [name for name, weight in model.named_parameters() if isinstance(weight, FourBitTensor)]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, held
    )


def held_bytes(model: Any) -> int:
    """Bytes of a model's parameters as they lie in memory."""
    return sum(
        weight.held_bytes
        if isinstance(weight, FourBitTensor)
        else weight.numel() * weight.element_size()
        for weight in model.parameters()
    )


@dataclass(frozen=True, kw_only=True)
class BaseBytes:
    """Bytes of a base model's weights.

    Attributes:
        linear: linear layers of the blocks.
        experts: fused expert stacks.
        rest: embeddings, output embedding, routers and norms: never quantised.
        largest: of the quantised weights, dequantised: what computing with it takes for a moment.
    """

    linear: float
    experts: float
    rest: float
    largest: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.experts + self.rest


def base_bytes(model: Any, settings: FourBitConfig | None, *, dtype_bytes: int) -> BaseBytes:
    """Count a base model's weights, quantised or not, from their shapes."""
    linear, experts = {f"{kind}.weight" for kind in linear_kinds(model)}, set(expert_kinds(model))
    quantised = set() if settings is None else set(quantised_names(model, settings))
    sums = {"linear": 0.0, "experts": 0.0, "rest": 0.0}
    largest = 0
    for name, weight in model.named_parameters():
        kind = kind_of(name)
        part = "linear" if kind in linear else "experts" if kind in experts else "rest"
        each = float(dtype_bytes)
        if settings is not None and name in quantised:
            each = bytes_per_number(settings)
            largest = max(largest, weight.numel() * dtype_bytes)
        sums[part] += weight.numel() * each
    return BaseBytes(**sums, largest=largest)
