"""The memory a run will take, counted before it starts, without any weights.

Everything is counted from the model itself, not from a formula for one family: parameters by their
shapes, and activations by running a few layers forward on tensors without data and adding up what
autograd saves for the backward pass. So a change of rank, target, micro-batch or checkpointing
shows up with its real price.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from transformers.integrations.sdpa_attention import repeat_kv

from prompt_distillation.config.train_config import FourBitConfig, LoraSettings
from prompt_distillation.machine import GIB
from prompt_distillation.training.fused_norms import fuse_norms, is_fused
from prompt_distillation.training.lora.adapter import (
    active_experts,
    adapt,
    count_parameters,
    number_of_experts,
)
from prompt_distillation.training.lora.expert_lora import IMPLEMENTATION, ParamWrapper
from prompt_distillation.training.quantisation.base_weights import BaseBytes, base_bytes
from prompt_distillation.training.varlen_attention import find_obstacle

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
class MemoryEstimate:
    """Bytes per device at the peak of a run, by purpose.

    Attributes:
        weights: of the base model; with FSDP its share, and the layers gathered at a time.
        teacher: weights of a second model that scores the student's answers.
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
    teacher: float
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
        """The peak: what lasts, plus the larger of the start and the end of a backward pass.

        In between, activations are freed as gradients are allocated.
        """
        lasting = self.weights + self.teacher + self.adapters + self.optimizer + self.context
        momentary = self.experts + self.dequantised
        begin = self.held_gradients + self.checkpoints + max(self.layers + momentary, self.logits)
        return lasting + max(begin, self.gradients + self.layer + momentary)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the memory is estimated for.

    Attributes:
        base_dtype_bytes: of a weight of the base model.
        lora: None for a full fine-tune.
        tokens_per_pass: longest pass.
        trained_tokens_per_pass: of them, those with loss.
        mask_entries: of the attention mask of a pass: its tokens squared where rows lie end to
            end; 0 for attention without one.
        may_attend_by_rows: whether the mask is left out if the model allows it
            (`varlen_attention`).
        passes: per optimizer step.
        gradient_checkpointing: whether layers are recomputed.
        optimizer: transformers' name of it.
        on_gpu: whether a device's own share is counted.
        four_bit: how the base weights are quantised; None where they are not.
        shards: devices that each hold a share of weights, adapters and optimizer (FSDP); else 1.
        teacher: configuration of a second model in memory, in the base's type; None: there is none.
    """

    base_dtype_bytes: int
    lora: LoraSettings | None
    tokens_per_pass: int
    trained_tokens_per_pass: int
    mask_entries: int = 0
    may_attend_by_rows: bool = False
    passes: int = 1
    gradient_checkpointing: bool
    optimizer: str
    on_gpu: bool
    four_bit: FourBitConfig | None = None
    shards: int = 1
    teacher: Any = None


def estimate_memory(config: Any, work: Workload) -> MemoryEstimate:
    """Estimate the memory of a run of a model with ``config``, in bytes per device."""
    model = meta_model(config, work.lora, dtype_bytes=work.base_dtype_bytes)
    trainable = count_parameters(model)[0] / work.shards
    base = base_weights(config, work)
    full = work.lora is None
    # PEFT keeps adapters in float32, whatever the base is.
    trained_bytes = work.base_dtype_bytes if full else 4
    # Two counts of a few layers tell one layer from what is there once.
    layers = config.get_text_config().num_hidden_layers
    one, two = (_saved_bytes(_shortened(config, n), work) for n in (1, 2))
    per_layer = two - one
    checkpointing = work.gradient_checkpointing
    hidden = config.get_text_config().hidden_size
    compute_bytes = min(work.base_dtype_bytes, 4)
    vocabulary = config.get_text_config().vocab_size
    # FSDP gathers a layer, and the next one meanwhile.
    gathered = 2 * (base.linear + base.experts) / layers if work.shards > 1 else 0
    return MemoryEstimate(
        weights=base.total / work.shards + gathered,
        teacher=base_weights(work.teacher, replace(work, four_bit=None)).total
        if work.teacher
        else 0,
        adapters=0 if full else trainable * 4,
        gradients=trainable * trained_bytes,
        held_gradients=trainable * trained_bytes if work.passes > 1 else 0,
        optimizer=_state_bytes(model, work.optimizer) / work.shards,
        checkpoints=layers * work.tokens_per_pass * hidden * compute_bytes if checkpointing else 0,
        layer=per_layer,
        layers=one + (0 if checkpointing else (layers - 1) * per_layer),
        dequantised=base.largest,
        experts=_expert_gradients(model, work.tokens_per_pass) * compute_bytes,
        # Scores in float32, their exponentials and their gradient.
        logits=3 * 4 * work.trained_tokens_per_pass * vocabulary,
        context=CUDA_CONTEXT_BYTES if work.on_gpu else 0,
    )


def base_weights(config: Any, work: Workload) -> BaseBytes:
    """Bytes of the base model's weights, by type."""
    model = meta_model(config, None, dtype_bytes=work.base_dtype_bytes)
    return base_bytes(model, work.four_bit, dtype_bytes=work.base_dtype_bytes)


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


def _saved_bytes(config: Any, work: Workload) -> int:
    half = work.base_dtype_bytes == 2
    model = meta_model(config, work.lora, dtype_bytes=work.base_dtype_bytes)
    by_rows = work.may_attend_by_rows and find_obstacle(model, on_gpu=work.on_gpu) is None
    return saved_bytes(
        model, tokens=work.tokens_per_pass, mask_entries=0 if by_rows else work.mask_entries,
        half=half, on_gpu=work.on_gpu,
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
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if dtype_bytes == 2 else torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        return model if lora is None else adapt(model, lora)


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


def saved_bytes(model: Any, *, tokens: int, mask_entries: int, half: bool, on_gpu: bool) -> int:
    """Bytes that autograd saves in the forward pass of the blocks, parameters left out.

    Args:
        model: adapted or not, on the meta device; it is of no use afterwards.
        tokens: of the pass.
        mask_entries: of its attention mask; 0 for attention without one.
        half: bfloat16 weights, instead of float32.
        on_gpu: whether a GPU's kernels are meant, and autocast, which is on there.
    """
    from peft import PeftModel
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AttentionInterface
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register("memory_estimate", _attention if on_gpu else _attention_on_cpu)
    ExpertsInterface.register("memory_estimate", _experts)
    config = model.config
    model.set_attn_implementation("memory_estimate")
    # Ours has shapes without data, and runs as it is.
    if number_of_experts(config) and config._experts_implementation != IMPLEMENTATION:
        model.set_experts_implementation("memory_estimate")
    if on_gpu:
        fuse_norms(model)
        for module in model.modules():
            if is_fused(module):
                module.forward = MethodType(_norm, module)
    # PEFT's folding asks for autocast on the weight's device, and there is none for meta (torch
    # 2.13); PEFT cannot build on fake tensors (0.21.2). So built on the one and run on the other.
    with FakeTensorMode():
        _without_data(model)
        blocks = (model.get_base_model() if isinstance(model, PeftModel) else model).base_model
        blocks.train()
        hidden = config.get_text_config().hidden_size
        embedded = torch.empty(1, tokens, hidden, dtype=torch.bfloat16 if half else torch.float32)
        with (
            _counting(model) as saved,
            torch.autocast("cpu", torch.bfloat16, enabled=half or on_gpu),
        ):
            blocks(
                inputs_embeds=embedded.requires_grad_(),
                # A mask of four dimensions is taken as it is; another is looked into for data.
                attention_mask=torch.empty(1, 1, 1, mask_entries, dtype=torch.bool),
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
    """Saves what fused attention kernels save: their inputs, the output and a row sum."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, bias: Any) -> Any:
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, bias, output, sums)
        return output


class _FusedNorm(torch.autograd.Function):  # type: ignore[misc]
    """Saves what a norm in one kernel saves: its input and a number a row."""

    @staticmethod
    def forward(ctx: Any, hidden: Any) -> Any:
        factors = torch.empty(hidden.shape[:-1], dtype=torch.float32, device=hidden.device)
        ctx.save_for_backward(hidden, factors)
        return torch.empty_like(hidden)


def _norm(module: Any, hidden: Any) -> Any:
    if hidden.dtype != module.weight.dtype:  # as `norms` leaves it
        return type(module).forward(module, hidden)
    return _FusedNorm.apply(hidden)


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **unused: Any
) -> tuple[Any, None]:
    bias = None
    if mask.numel():
        # As transformers' sdpa_attention: with a mask the heads of keys and values are repeated,
        # and torch turns the mask into numbers again in each layer.
        repeats = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
        bias = torch.empty(mask.shape, dtype=query.dtype)
    return _FusedAttention.apply(query, key, value, bias).transpose(1, 2), None


def _attention_on_cpu(
    module: Any, query: Any, key: Any, value: Any, mask: Any, dropout: float = 0.0, **unused: Any
) -> tuple[Any, None]:
    if not dropout:
        return _attention(module, query, key, value, mask)
    # No fused kernel of the CPU drops out: every score is held.
    scores = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True
    )
    return scores.transpose(1, 2), None


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
