"""The memory a run will take, counted before it starts, without any weights.

Everything is counted from the model itself, not from a formula for one family: parameters by their
shapes, and activations by running a few layers forward on tensors without data and adding up what
autograd saves for the backward pass. So a change of rank, target, micro-batch or checkpointing
shows up with its real price.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from prompt_distillation.training.adapter import LoraSettings, count_parameters, lora_config
from prompt_distillation.training.expert_lora import IMPLEMENTATION, ParamWrapper, set_expert_lora
from prompt_distillation.training.targets import (
    active_experts,
    default_expert_rank,
    find_targets,
    number_of_experts,
)

GIB = 2**30

STATE_BYTES = {"8bit": 2.0, "adafactor": 0.1, "sgd": 0.0, "lion": 4.0}
"""Bytes of optimizer state per trained parameter by a part of the optimizer's name; else Adam's
two float32 moments."""

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
        optimizer: its state.
        checkpoints: layer inputs kept for the backward pass.
        layers: what autograd saves: of one layer, or of all without gradient checkpointing.
        experts: what the backward pass of adapted experts takes beside what was saved.
        logits: of the trained tokens of a pass, and their gradient.
        context: of the device itself.
    """

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    checkpoints: float
    layers: float
    experts: float
    logits: float
    context: float

    @property
    def total(self) -> float:
        """The peak: what lasts, and the larger of a backward pass and its end."""
        lasting = self.weights + self.adapters + self.gradients + self.optimizer + self.context
        return lasting + self.checkpoints + max(self.layers + self.experts, self.logits)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the account is of.

    Attributes:
        base_dtype_bytes: of a weight of the base model.
        lora: None for a full fine-tune.
        tokens_per_pass: longest pass.
        trained_tokens_per_pass: of them, those with loss.
        gradient_checkpointing: whether layers are recomputed.
        optimizer: transformers' name of it.
        on_gpu: whether a device's own share is counted.
    """

    base_dtype_bytes: int
    lora: LoraSettings | None
    tokens_per_pass: int
    trained_tokens_per_pass: int
    gradient_checkpointing: bool
    optimizer: str
    on_gpu: bool


def account(config: Any, plan: Plan) -> MemoryAccount:
    """Count the memory of a run of a model with ``config``, in bytes per device."""
    model = meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    trainable, total = count_parameters(model)
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
        weights=total * plan.base_dtype_bytes
        if full
        else (total - trainable) * plan.base_dtype_bytes,
        adapters=0 if full else trainable * 4,
        gradients=trainable * trained_bytes,
        optimizer=trainable * _state_bytes(plan.optimizer),
        checkpoints=layers * plan.tokens_per_pass * hidden * compute_bytes if checkpointing else 0,
        layers=per_layer if checkpointing else layers * per_layer,
        experts=_expert_gradients(model, plan.tokens_per_pass) * compute_bytes,
        # Scores in float32, their exponentials and their gradient.
        logits=3 * 4 * plan.trained_tokens_per_pass * vocabulary,
        context=CUDA_CONTEXT_BYTES if plan.on_gpu else 0,
    )


def _state_bytes(optimizer: str) -> float:
    return next((size for part, size in STATE_BYTES.items() if part in optimizer), 8.0)


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


def _saved_bytes(config: Any, plan: Plan) -> int:
    """Bytes that autograd saves in the forward pass of the blocks, parameters left out."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AttentionInterface
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register("memory_account", _attention)
    ExpertsInterface.register("memory_account", _experts)
    half = plan.base_dtype_bytes == 2
    tokens = plan.tokens_per_pass
    hidden = config.get_text_config().hidden_size
    model = meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    model.set_attn_implementation("memory_account")
    # Ours has shapes without data, and runs as it is.
    if number_of_experts(config) and config._experts_implementation != IMPLEMENTATION:
        model.set_experts_implementation("memory_account")
    # PEFT's folding asks for autocast on the weight's device, and there is none for meta (torch
    # 2.13); PEFT cannot build on fake tensors (0.21.2). So built on the one and run on the other.
    with FakeTensorMode():
        _without_data(model)
        blocks = (model if plan.lora is None else model.get_base_model()).base_model
        blocks.train()
        embedded = torch.empty(1, tokens, hidden, dtype=torch.bfloat16 if half else torch.float32)
        with _counting(model) as saved, torch.autocast("cpu", torch.bfloat16, enabled=half):
            blocks(
                inputs_embeds=embedded.requires_grad_(),
                # A mask of four dimensions is taken as it is; another is looked into for data.
                attention_mask=torch.empty(1, 1, 1, 1, dtype=torch.bool),
                position_ids=torch.arange(tokens)[None],
                use_cache=False,
            )
    return sum(saved.values())


def _without_data(model: Any) -> None:
    """Replace parameters and buffers by fake ones on the CPU; called under a FakeTensorMode."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = torch.nn.Parameter(
                    fake, requires_grad=parameter.requires_grad
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@contextmanager
def _counting(model: Any) -> Iterator[dict[int, int]]:
    """Storage -> bytes of what autograd saves in the block, each storage once."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
            kept.append(storage)  # alive, so that no other storage takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


class _FusedAttention(torch.autograd.Function):  # type: ignore[misc]
    """Saves what fused attention kernels save: queries, keys, values, output and a row sum."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        return output


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **unused: Any
) -> tuple[Any, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2), None


def _experts(module: Any, hidden: Any, chosen: Any, weights: Any) -> Any:
    """Saves what transformers' grouped products save: their inputs and the (folded) stacks.

    The products themselves have no shapes without data in float32 (torch 2.13); their fallback in
    transformers has.
    """
    tokens, experts_per_token = chosen.shape
    ends = torch.empty(module.num_experts, dtype=torch.int32)

    def product(inputs: Any, stack: Any) -> Any:
        stack = stack if module.is_transposed else stack.transpose(-2, -1)
        return torch.ops.transformers.grouped_mm_fallback(inputs.to(stack.dtype), stack, ends)

    copies = hidden.repeat_interleave(experts_per_token, dim=0)
    gated = module._apply_gate(product(copies, module.gate_up_proj))
    weighted = product(gated, module.down_proj) * weights.reshape(-1)[:, None]
    return weighted.view(tokens, experts_per_token, -1).sum(dim=1).to(hidden.dtype)
