"""The memory a run will take, counted before it starts, without any weights.

Everything is counted from the model itself, not from a formula for one family: parameters by their
shapes, and activations by running a few layers forward on tensors without data and adding up what
autograd saves for the backward pass. So a change of rank, target, micro-batch or checkpointing
shows up with its real price.
"""

from dataclasses import dataclass
from typing import Any

import torch

from prompt_distillation.training.lora.adapter import LoraSettings, count_parameters, lora_config
from prompt_distillation.training.lora.expert_lora import ParamWrapper, set_expert_lora
from prompt_distillation.training.lora.linear_lora import set_linear_lora
from prompt_distillation.training.lora.targets import (
    active_experts,
    default_expert_rank,
    find_targets,
)
from prompt_distillation.training.memory.activations import saved_bytes
from prompt_distillation.training.quantisation.base_weights import BaseBytes, base_bytes
from prompt_distillation.training.quantisation.four_bit import FourBitSettings

GIB = 2**30

MOMENTS = {"adafactor": 0.025, "sgd": 0, "lion": 1, "rmsprop": 1, "adagrad": 1, "ademamix": 3}
"""Moments per trained parameter by a part of the optimizer's name, 4 bytes each; else Adam's two.
Adafactor keeps sums of rows and columns only."""

BLOCK, LEAST_QUANTISED = 256, 4096
"""bitsandbytes' 8-bit optimizers (0.50.2, ``optim/optimizer.py``) keep a float32 scale per 256
numbers of a moment, and tensors below 4,096 numbers, as well as embeddings, in float32."""

CUDA_CONTEXT_BYTES = 0.8 * GIB
"""Driver, kernels and libraries, before the first tensor: what `nvidia-smi` shows for an empty
process on an H100 with torch 2.13, rounded up."""


@dataclass(frozen=True, kw_only=True)
class MemoryAccount:
    """Bytes per device.

    Attributes:
        weights: of the base model.
        adapters: trained parameters beside it; 0 for a full fine-tune.
        gradients: of the trained parameters.
        held_gradients: of them, those that stand when a backward pass begins: all where a step
            has several passes, else none.
        optimizer: its state.
        checkpoints: layer inputs kept for the backward pass.
        layer: what autograd saves of one layer.
        layers: of those that stand when a backward pass begins, the last norm included: of all,
            or of one under gradient checkpointing.
        dequantised: the largest weight held in 4 bits, as it is for the moment it is used.
        experts: what the backward pass of adapted experts takes beside what was saved.
        logits: of the trained tokens of a pass, and their gradient.
        context: of the device itself.
    """

    weights: float
    adapters: float
    gradients: float
    held_gradients: float
    optimizer: float
    checkpoints: float
    layer: float
    layers: float
    dequantised: float
    experts: float
    logits: float
    context: float

    @property
    def total(self) -> float:
        """The peak: what lasts, and the larger of a backward pass's two ends.

        In between, activations go as gradients come.
        """
        lasting = self.weights + self.adapters + self.optimizer + self.context
        momentary = self.experts + self.dequantised
        begin = self.held_gradients + self.checkpoints + max(self.layers + momentary, self.logits)
        return lasting + max(begin, self.gradients + self.layer + momentary)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the account is of.

    Attributes:
        base_dtype_bytes: of a weight of the base model.
        lora: None for a full fine-tune.
        tokens_per_pass: longest pass.
        trained_tokens_per_pass: of them, those with loss.
        mask_entries: of the attention mask of a pass: its tokens squared where rows lie end to
            end; 0 for attention without one.
        passes: per optimizer step.
        gradient_checkpointing: whether layers are recomputed.
        optimizer: transformers' name of it.
        on_gpu: whether a device's own share is counted.
        four_bit: how the base weights are quantised; None where they are not.
    """

    base_dtype_bytes: int
    lora: LoraSettings | None
    tokens_per_pass: int
    trained_tokens_per_pass: int
    mask_entries: int = 0
    passes: int = 1
    gradient_checkpointing: bool
    optimizer: str
    on_gpu: bool
    four_bit: FourBitSettings | None = None


def account(config: Any, plan: Plan) -> MemoryAccount:
    """Count the memory of a run of a model with ``config``, in bytes per device."""
    model = meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    trainable, _ = count_parameters(model)
    base = base_weights(config, plan)
    full = plan.lora is None
    # PEFT keeps adapters in float32, whatever the base is.
    trained_bytes = plan.base_dtype_bytes if full else 4
    # Two counts of a few layers tell one layer from what is there once.
    layers = config.get_text_config().num_hidden_layers
    one, two = (_saved_bytes(_shortened(config, n), plan) for n in (1, 2))
    per_layer = two - one
    checkpointing = plan.gradient_checkpointing
    hidden = config.get_text_config().hidden_size
    compute_bytes = min(plan.base_dtype_bytes, 4)
    vocabulary = config.get_text_config().vocab_size
    return MemoryAccount(
        weights=base.total,
        adapters=0 if full else trainable * 4,
        gradients=trainable * trained_bytes,
        held_gradients=trainable * trained_bytes if plan.passes > 1 else 0,
        optimizer=_state_bytes(model, plan.optimizer),
        checkpoints=layers * plan.tokens_per_pass * hidden * compute_bytes if checkpointing else 0,
        layer=per_layer,
        layers=one + (0 if checkpointing else (layers - 1) * per_layer),
        dequantised=base.largest,
        experts=_expert_gradients(model, plan.tokens_per_pass) * compute_bytes,
        # Scores in float32, their exponentials and their gradient.
        logits=3 * 4 * plan.trained_tokens_per_pass * vocabulary,
        context=CUDA_CONTEXT_BYTES if plan.on_gpu else 0,
    )


def base_weights(config: Any, plan: Plan) -> BaseBytes:
    """Bytes of the base model's weights, by what they are."""
    model = meta_model(config, None, dtype_bytes=plan.base_dtype_bytes)
    return base_bytes(model, plan.four_bit, dtype_bytes=plan.base_dtype_bytes)


def _state_bytes(model: Any, optimizer: str) -> float:
    moments = next((number for part, number in MOMENTS.items() if part in optimizer), 2)
    quantised = "8bit" in optimizer
    embeddings = {m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    total = 0.0
    for parameter in model.parameters():
        whole = parameter.numel() < LEAST_QUANTISED or parameter in embeddings
        if parameter.requires_grad:
            bytes_each = 1 + 4 / BLOCK if quantised and not whole else 4
            total += parameter.numel() * moments * bytes_each
    return total


def _saved_bytes(config: Any, plan: Plan) -> int:
    half = plan.base_dtype_bytes == 2
    model = meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    return saved_bytes(
        model, tokens=plan.tokens_per_pass, mask_entries=plan.mask_entries, half=half,
        on_gpu=plan.on_gpu,
    )  # fmt: skip


def _shortened(config: Any, layers: int) -> Any:
    values = config.to_dict() | {"num_hidden_layers": layers}
    # Lists with an entry per layer must be as long as the layers.
    for key, value in values.items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            values[key] = value[:layers]
    return type(config).from_dict(values)


def meta_model(config: Any, lora: LoraSettings | None, *, dtype_bytes: int) -> Any:
    """The model, adapted where asked for, with shapes and no data."""
    with torch.device("meta"):
        return _model(config, lora, dtype=torch.bfloat16 if dtype_bytes == 2 else torch.float32)


def _model(config: Any, lora: LoraSettings | None, *, dtype: torch.dtype) -> Any:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if lora is None:
        return model
    expert_rank = lora.expert_rank or default_expert_rank(config, lora.rank)
    targets = find_targets(model, lora.targets)
    adapter = lora_config(lora, targets, expert_rank=expert_rank)
    set_expert_lora(model, adapter, targets, lora.expert_lora)
    set_linear_lora(adapter)
    return get_peft_model(model, adapter)


def _expert_gradients(model: Any, tokens: int) -> int:
    """Numbers that the backward pass of one layer's experts holds; 0 without adapted experts.

    With the adapter folded in, the gradient of the largest stack. With the adapter on activations,
    for the rows of each expert: the gradients of a stack's inputs, by the stack and by the adapter,
    and the gradient of its outputs (`grouped_products.AdaptedProduct.backward`).
    """
    from peft.tuners import lora

    rows = tokens * active_experts(model.config)
    return max(
        (
            rows * (2 * module.in_features + module.out_features)
            if isinstance(module, ParamWrapper)
            else module.get_param().numel()
            for module in model.modules()
            if isinstance(module, lora.ParamWrapper)
        ),
        default=0,
    )
