"""Attention over rows laid end to end, without a mask over all pairs of their tokens.

transformers keeps such rows apart by a dense mask, which grows with the square of the pass: at
8,192 tokens it has 67 million entries, and torch's fastest kernels take no mask. Here each row
attends to itself alone. TRL's collator says where rows begin (``cu_seq_lens_q``). On a GPU one
kernel takes all rows: flash-attention's, which transformers uses by itself where it is installed,
or torch's own (``torch.nn.attention.varlen``, torch 2.13). On a CPU, which has no such kernel, rows
follow one another.

Passes of any other kind (padded rows, cached tokens, layers that see a window only) are computed by
transformers' ``sdpa``, as before.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention

from prompt_distillation.errors import ModelError

logger = logging.getLogger(__name__)

NAME = "rows_end_to_end"
"""Our name among transformers' attention implementations."""

LARGEST_WIDTH = 256
"""Of a head, in torch's kernel."""


def use_varlen_attention(model: Any) -> bool:
    """Let a model attend without a dense mask, where its code and the kernel allow it.

    Returns:
        Whether it does; otherwise the model is as it was, and a warning says why.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    on_gpu = model.device.type == "cuda"
    reason = find_obstacle(model, on_gpu=on_gpu)
    if reason is None and on_gpu:
        if _use_flash_attention(model):
            return True
        heads = _heads(model.config.get_text_config())
        reason = kernel_fault(model.device, model.dtype, *heads)
    if reason is None:
        AttentionInterface.register(NAME, varlen_attention)
        AttentionMaskInterface.register(NAME, varlen_mask)
        model.set_attn_implementation(NAME)
        reason = _passing_fault(model)
        if reason is None:
            return True
        model.set_attn_implementation("sdpa")
    logger.warning(
        "rows laid end to end are kept apart by a dense mask, which is slower: %s", reason
    )
    return False


def find_obstacle(model: Any, *, on_gpu: bool) -> str | None:
    """Why a model's rows cannot attend to themselves alone; None where they can.

    The model may be on any device; ``on_gpu`` is whether it will run on a GPU.
    """
    config = model.config.get_text_config()
    family = type(model).__name__
    if model.config._attn_implementation != "sdpa" or not model._supports_flash_attn:
        return f"{family} has an attention of its own"
    if getattr(config, "attention_dropout", 0) or getattr(config, "attn_pdrop", 0):
        return f"{family} drops attention weights out"
    if not on_gpu:
        return None
    if model.dtype not in (torch.bfloat16, torch.float16):
        return f"its weights are {model.dtype}"
    _, _, width = _heads(config)
    if width % 8 or width > LARGEST_WIDTH or getattr(config, "v_head_dim", None) is not None:
        return f"heads of {family} have a shape that the kernel does not take"
    if torch_kernel() is None:
        return f"torch {torch.__version__} has no varlen_attn with grouped heads"
    return None


def torch_kernel() -> Callable[..., Any] | None:
    """The kernel for GPUs, where torch has the version that is called here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    needed = {"scale", "window_size", "enable_gqa"}
    return varlen_attn if needed <= inspect.signature(varlen_attn).parameters.keys() else None


def varlen_mask(
    *, attention_mask: Any = None, allow_is_causal_skip: bool = True, **keywords: Any
) -> Any:
    """The mask of ``sdpa``; for rows laid end to end one without entries.

    transformers leaves no other trace of such rows (5.19, ``create_causal_mask``) than that a
    causal mask without padding may not be left out.
    """
    from transformers.masking_utils import sdpa_mask

    whole = keywords["q_length"] == keywords["kv_length"] and keywords["batch_size"] == 1
    special = keywords.get("local_size") is not None or keywords.get("use_vmap", False)
    if attention_mask is None and not allow_is_causal_skip and whole and not special:
        return torch.empty((1, 1, 1, 0), dtype=torch.bool, device=keywords["device"])
    return sdpa_mask(
        attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **keywords
    )


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers; ``sdpa`` but for rows laid end to end.

    Args:
        module: the attention layer.
        query: 1 x heads x tokens x width.
        key: 1 x key-value heads x tokens x width.
        value: as ``key``.
        attention_mask: of `varlen_mask`.
        keywords: ``cu_seq_lens_q`` and ``max_length_q`` of the batch, and what ``sdpa`` takes.

    Returns:
        1 x tokens x heads x width, and no weights.

    Raises:
        ModelError: the model does not hand on where rows begin.
    """
    if attention_mask is None or attention_mask.numel():
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain = sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
        return cast("tuple[torch.Tensor, None]", plain)
    starts, longest = keywords.get("cu_seq_lens_q"), keywords.get("max_length_q")
    if starts is None or longest is None:
        raise ModelError(
            f"{type(module).__name__} is not told where rows begin; pass --attn_implementation sdpa"
        )
    scaling = keywords.get("scaling")
    if not query.is_cuda:
        return _row_by_row(query, key, value, starts, scaling).transpose(1, 2), None
    # Norms and rotations of some families leave float32 behind, which sdpa's autocast takes away.
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else value.dtype
    query, key, value = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    return _by_kernel(query, key, value, starts, longest, scaling)[None], None


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """(1, heads, tokens, width), each row causally attending to itself."""
    lengths = starts.diff().tolist()
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    """(tokens, heads, width), each row causally attending to itself."""
    kernel = torch_kernel()
    assert kernel is not None
    output: torch.Tensor = kernel(
        query, key, value, starts, starts, longest, longest, scale=scaling,
        window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output


def _heads(config: Any) -> tuple[int, int, int]:
    """Heads, key-value heads, and the width of one."""
    heads = int(config.num_attention_heads)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return heads, kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _use_flash_attention(model: Any) -> bool:
    """Let transformers use flash-attention, where it is installed and loads; whether it does."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    installed = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
    }
    for name in (name for name, there in installed.items() if there):
        try:
            model.set_attn_implementation(name)
        except (ImportError, OSError, ValueError) as error:  # built for another torch, or card
            logger.warning("%s is installed, and cannot be used: %s", name, error)
        else:
            return True
    return False


@functools.cache
def kernel_fault(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> str | None:
    """What is wrong with torch's kernel here, tried once on two rows against one row at a time."""
    starts = torch.tensor([0, 5, 17], dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    query, key, value, into = (
        torch.randn(17, number, width, generator=generator).to(device, dtype)
        for number in (heads, kv_heads, kv_heads, heads)
    )
    with torch.enable_grad():
        inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
        exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
        try:
            ours = _by_kernel(query, key, value, starts, 12, None)
            gradients = torch.autograd.grad(ours, inputs, into)
        except (RuntimeError, TypeError, ValueError) as error:
            return f"torch's varlen_attn does not run here ({str(error).splitlines()[0]})"
        by_head = [tensor.transpose(0, 1)[None] for tensor in exact]
        expected = _row_by_row(by_head[0], by_head[1], by_head[2], starts, None)[0].transpose(0, 1)
        wanted = torch.autograd.grad(expected, exact, into.float())
    for one, other in zip((ours, *gradients), (expected, *wanted), strict=True):
        off = float((one.detach().float() - other.detach()).norm() / other.detach().norm())
        if not off < 4 * torch.finfo(dtype).eps:
            return f"torch's varlen_attn computes something else here (error {off:.1g})"
    return None


def _passing_fault(model: Any) -> str | None:
    """Whether the model's code hands on to its attention where rows begin: two rows, forward."""
    starts = torch.tensor([0, 4, 12], dtype=torch.int32, device=model.device)
    positions = torch.cat([torch.arange(4), torch.arange(8)])[None].to(model.device)
    try:
        with torch.no_grad():
            model(
                input_ids=positions, position_ids=positions, use_cache=False, cu_seq_lens_q=starts,
                cu_seq_lens_k=starts, max_length_q=8, max_length_k=8,
            )  # fmt: skip
    except (ModelError, RuntimeError, TypeError, ValueError) as error:
        return str(error).splitlines()[0]
    return None
