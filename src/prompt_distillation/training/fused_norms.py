"""transformers' RMSNorm as the one kernel that torch has for it.

Written out (transformers 5, e.g. ``Qwen3MoeRMSNorm``) it is eight kernels forward and some fifteen
backward, four times in a layer of Qwen3: a third of what a small step launches. torch's kernel
rounds once, after the weight, where the written-out one rounds before it too.
"""

from types import MethodType
from typing import Any

import torch
from torch.nn import functional


def fuse_norms(model: Any) -> int:
    """Let the RMSNorms of a model compute in one kernel; returns how many there are.

    RMSNorms are recognised by what they compute, tried once per class and width.
    """
    same: dict[tuple[type, torch.Size], bool] = {}
    fused = 0
    for module in model.modules():
        if not _looks_like_one(module):
            continue
        kind = (type(module), module.weight.shape)
        if kind not in same:
            same[kind] = _is_one(module)
        if same[kind]:
            module.forward = MethodType(_forward, module)
            fused += 1
    return fused


def is_fused(module: Any) -> bool:
    """Whether `fuse_norms` has taken this module."""
    return getattr(vars(module).get("forward"), "__func__", None) is _forward


def _looks_like_one(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(getattr(module, "variance_epsilon", None), float)
        and isinstance(weight, torch.nn.Parameter)
        and weight.dim() == 1
        and weight.numel() > 0  # ZeRO-3 has emptied it: it cannot be asked
        and "forward" not in vars(module)  # accelerate's hooks are there
    )


def _is_one(module: Any) -> bool:
    weight = module.weight
    if weight.is_meta:
        return True  # only shapes are asked for
    shape = (2, weight.shape[0])
    hidden = torch.linspace(-2, 3, shape[0] * shape[1], dtype=weight.dtype, device=weight.device)
    hidden = hidden.view(shape)
    with torch.no_grad():
        wanted, ours = module(hidden), _forward(module, hidden)
    tolerance = 2 * torch.finfo(weight.dtype).eps
    return bool(
        ours.dtype == wanted.dtype
        and torch.allclose(ours.float(), wanted.float(), rtol=tolerance, atol=1e-6)
    )


def _forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """(..., width) -> (..., width), in the dtype of the input."""
    if hidden.dtype != module.weight.dtype:
        # Which of the two it returns, and where it rounds, is the family's own.
        return type(module).forward(module, hidden)
    # Autocast would have it in float32 (torch 2.12 on), which the kernel is inside.
    with torch.autocast(hidden.device.type, enabled=False):
        return functional.rms_norm(
            hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon
        )
