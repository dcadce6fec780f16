"""The adapter of a linear layer in few kernels.

A step of a large mixture on a GPU is short of tokens, not of arithmetic: 16 rows of a classifying
student are some 700 tokens, and what takes the time is launching kernels one after the other. Under
autocast PEFT's way (0.21.2, ``lora.Linear``) casts the input to the adapter's float32 and back,
scales in a kernel of its own, and leaves autograd to undo each step. Here forward and backward are
written out, casts and scaling inside the kernels that are needed anyway.

As with `expert_lora`, the adapter stays PEFT's: its modules, its names, its file.
"""

from typing import Any

import torch
from peft.tuners import lora
from torch.nn import functional

from prompt_distillation.training.lora.expert_lora import peft_is_tested


class _ExactType(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return type(instance) is torch.nn.Linear


class _PlainLinear(metaclass=_ExactType):
    """What PEFT finds to be a plain linear layer, and not one of its quantised subclasses."""


def set_linear_lora(config: Any) -> None:
    """Have PEFT put `Linear` on linear layers, where PEFT is the release that it was written for.

    Subclasses, such as bitsandbytes' layers, are left to PEFT: each needs a wrapper of its own.
    """
    if peft_is_tested():
        config._register_custom_module({_PlainLinear: _wrap})


def _wrap(
    target: Any, adapter_name: str, *, parameter_name: str | None = None, **options: Any
) -> Any:
    """A linear layer named by its weight (`adapter.Targets.by_weight`) is adapted as any other."""
    return Linear(target, adapter_name, **options)


class Linear(lora.Linear):  # type: ignore[misc]
    """PEFT's adapted linear layer with another forward pass in training, where nothing is special.

    It has the name of its parent because PEFT recognises layers by their class's name.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the parent's: (..., in) -> (..., out)."""
        name = self._plain_adapter(x) if not kwargs else None
        if name is None:
            return super().forward(x, *args, **kwargs)
        into, out = self.lora_A[name].weight, self.lora_B[name].weight
        base = self.base_layer(x)
        # No view inside: autograd forbids writing into a view that a function returns.
        return _AddLowRank.apply(base, x, into, out, self.scaling[name]).view(base.shape)

    def _plain_adapter(self, x: torch.Tensor) -> str | None:
        """The one adapter whose products can be written out; None where PEFT has to do more."""
        if not self.training or self.disable_adapters or self.merged or x.dim() < 2:
            return None
        names = [name for name in self.active_adapters if name in self.lora_A]
        if len(names) != 1 or names[0] in self.lora_variant or self.lora_bias[names[0]]:
            return None
        (name,) = names
        # FSDP 1 wraps A and B, and gathers them in the wrapper's forward pass.
        kinds = [type(self.lora_dropout[name]), type(self.lora_A[name]), type(self.lora_B[name])]
        plain = kinds == [torch.nn.Identity, torch.nn.Linear, torch.nn.Linear]
        computes_in = self.lora_A[name].weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            computes_in = torch.get_autocast_dtype(x.device.type)
        return name if plain and x.dtype == computes_in else None


class _AddLowRank(torch.autograd.Function):  # type: ignore[misc]
    """``y + scaling (x A^T) B^T`` in the dtype of x; A and B may be of another.

    For the backward pass it keeps x, x A^T, and A and B in the dtype of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor,
        inputs: torch.Tensor,
        into: torch.Tensor,
        out: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Outputs (rows, out) of y (..., out), x (..., in), A (rank, in) and B (out, rank)."""
        ctx.dtypes, ctx.scaling, ctx.shape = (into.dtype, out.dtype), scaling, base.shape
        rows = inputs.flatten(0, -2)
        into, out = into.to(inputs.dtype), out.to(inputs.dtype)
        low = functional.linear(rows, into)  # (rows, rank)
        ctx.save_for_backward(inputs, into, out, low)
        return torch.addmm(base.flatten(0, -2), low, out.t(), alpha=scaling)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of y, x, A and B."""
        inputs, into, out, low = ctx.saved_tensors
        rows = inputs.flatten(0, -2)
        of_low = torch.mm(gradient, out).mul_(ctx.scaling)  # (rows, rank)
        of_into = torch.mm(of_low.t(), rows).to(ctx.dtypes[0])
        of_out = torch.mm(gradient.t(), low)
        of_out = torch.mul(of_out, ctx.scaling, out=torch.empty_like(of_out, dtype=ctx.dtypes[1]))
        of_inputs = torch.mm(of_low, into).view(inputs.shape) if ctx.needs_input_grad[1] else None
        return gradient.view(ctx.shape), of_inputs, of_into, of_out, None
