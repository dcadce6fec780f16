"""What autograd keeps of a forward pass, counted on tensors without data."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from transformers.integrations.sdpa_attention import repeat_kv

from prompt_distillation.training.fused_norms import fuse_norms, is_fused
from prompt_distillation.training.lora.expert_lora import IMPLEMENTATION
from prompt_distillation.training.lora.targets import number_of_experts


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

    AttentionInterface.register("memory_account", _attention if on_gpu else _attention_on_cpu)
    ExpertsInterface.register("memory_account", _experts)
    config = model.config
    model.set_attn_implementation("memory_account")
    # Ours has shapes without data, and runs as it is.
    if number_of_experts(config) and config._experts_implementation != IMPLEMENTATION:
        model.set_experts_implementation("memory_account")
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
        # and torch turns the mask into numbers anew in each layer.
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
