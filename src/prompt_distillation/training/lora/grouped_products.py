"""Matrix products in groups: each token with the matrices of the expert it is routed to.

Rows are sorted by expert, so that a group is a range of rows. On a GPU a product is one kernel
(`torch.nn.functional.grouped_mm`), on a CPU a loop over the experts that have rows.
"""

import functools
import itertools
import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers.integrations import moe as _  # noqa: F401  registers transformers' operators

logger = logging.getLogger(__name__)

ALIGNMENT_BYTES = 16
"""Strides that `grouped_mm` takes on a GPU are multiples of it (torch 2.13)."""


class LowRank(NamedTuple):
    """The update of a stack of experts, as PEFT keeps it (0.21, ``lora.ParamWrapper``).

    Attributes:
        into: A, of shape (experts x rank, in): its rows by expert, then rank.
        out: B, of shape (out, rank x experts): its columns by rank, then expert.
        scaling: the update is ``scaling B A``.
    """

    into: torch.Tensor
    out: torch.Tensor
    scaling: float


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which expert; a row is one token with one of its experts.

    Attributes:
        order: int64 of shape (rows,): where in (tokens x experts per token) each sorted row was.
        tokens: int64 of shape (rows,): the token of each sorted row.
        inverse: int64 of shape (rows,): where each row went.
        ends: int32 of shape (experts,): where the rows of each expert end.
        per_token: rows a token has.
    """

    order: torch.Tensor
    tokens: torch.Tensor
    inverse: torch.Tensor
    ends: torch.Tensor
    per_token: int

    def gather(self, states: torch.Tensor) -> torch.Tensor:
        """(tokens, width) -> (rows, width): each token once for each of its experts."""
        return states[self.tokens]

    def sum_by_token(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, width) -> (tokens, width), in an order that does not change between runs."""
        return rows[self.inverse].view(-1, self.per_token, rows.shape[1]).sum(dim=1)


def group_by_expert(chosen: torch.Tensor, num_experts: int) -> Groups:
    """Sort (token, expert) pairs by expert; ``chosen`` has shape (tokens, experts per token)."""
    experts, order = torch.sort(chosen.reshape(-1), stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    ids = torch.arange(num_experts, device=order.device, dtype=experts.dtype)
    # Without reading the numbers, which would have to wait for the GPU.
    ends = torch.searchsorted(experts, ids, right=True, out_int32=True)
    per_token = chosen.shape[1]
    return Groups(order, order // per_token, inverse, ends, per_token)


class FrozenStack(NamedTuple):
    """Where a stack of expert weights is found.

    Read anew for each product, in the backward pass too, and never kept: a quantised stack is
    dequantised for the product alone, and a sharded one may have moved in between.
    """

    module: Any
    name: str

    def read(self) -> torch.Tensor:
        """The weights, of shape (experts, in, out)."""
        stack = getattr(self.module, self.name)
        if stack.requires_grad:
            raise NotImplementedError(
                f"{self.name} is trainable, but --expert_lora activations computes no gradient for "
                "base weights; pass --expert_lora folded"
            )
        return stack if self.module.is_transposed else stack.transpose(1, 2)


class _Product(NamedTuple):
    """What is multiplied by, and how: `AdaptedProduct.of`."""

    stack: FrozenStack
    scaling: float
    gather: bool


class AdaptedProduct(torch.autograd.Function):  # type: ignore[misc]
    """``x W + (x A^T) B^T`` with each row's own expert; W is frozen, A and B are trained.

    For the backward pass it keeps x (before it is gathered, so not once per expert), A and B as the
    products take them, and x A^T. What is left to plain autograd would be the gathered x as well.
    """

    @staticmethod
    def of(
        inputs: torch.Tensor,
        stack: FrozenStack,
        update: LowRank | None,
        groups: Groups,
        *,
        gather: bool = False,
    ) -> torch.Tensor:
        """The product as a tensor of shape (rows, out) in the dtype of the stack.

        Args:
            inputs: (rows, in); with ``gather`` (tokens, in).
            stack: W.
            update: A and B; None leaves the stack as it is.
            groups: the rows of each expert.
            gather: make rows of tokens first.
        """
        into, out, scaling = (None, None, 1.0) if update is None else update
        dtype = stack.read().dtype
        product = _Product(stack, scaling, gather)
        return AdaptedProduct.apply(inputs.to(dtype), into, out, product, groups)

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        into: torch.Tensor | None,
        out: torch.Tensor | None,
        product: _Product,
        groups: Groups,
    ) -> torch.Tensor:
        """As `of`."""
        rows = groups.gather(inputs) if product.gather else inputs
        outputs = _rows_by_stack(rows, product.stack.read(), groups.ends)
        low = None
        if into is not None and out is not None:
            ctx.layout = _Layout(into, out, experts=groups.ends.shape[0], scaling=product.scaling)
            into, out = ctx.layout.for_products(into, out, inputs.dtype)
            low = _rows_by_stack(rows, into.transpose(1, 2), groups.ends)  # (rows, rank)
            outputs += _rows_by_stack(low, out.transpose(1, 2), groups.ends)
        kept = (None,) * 4 if low is None else (inputs, into, out, low)
        ctx.save_for_backward(*kept, groups.order, groups.tokens, groups.inverse, groups.ends)
        ctx.product, ctx.per_token = product, groups.per_token
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the inputs, of A and of B."""
        inputs, into, out, low, order, tokens, inverse, ends = ctx.saved_tensors
        groups = Groups(order, tokens, inverse, ends, ctx.per_token)
        gradient = gradient.contiguous()
        of_inputs = of_into = of_out = of_low = None
        if low is not None:
            of_low = _rows_by_stack(gradient, out, ends)
            of_into, of_out = ctx.layout.of_parameters(
                _rows_by_rows(
                    of_low, groups.gather(inputs) if ctx.product.gather else inputs, ends
                ),
                _rows_by_rows(gradient, low, ends),
            )
        if ctx.needs_input_grad[0]:
            of_inputs = _rows_by_stack(gradient, ctx.product.stack.read().transpose(1, 2), ends)
            if of_low is not None:
                of_inputs += _rows_by_stack(of_low, into, ends)
            if ctx.product.gather:
                of_inputs = groups.sum_by_token(of_inputs)
        return of_inputs, of_into, of_out, None, None


class _Layout:
    """From A and B as PEFT keeps them to what products take, and back for their gradients.

    Each way is one kernel a tensor, in which dtype, order and scaling change together: with few
    tokens a pass, launching kernels is what a GPU's step consists of.
    """

    def __init__(
        self, into: torch.Tensor, out: torch.Tensor, *, experts: int, scaling: float
    ) -> None:
        self.experts, self.scaling = experts, scaling
        self.rank = into.shape[0] // experts
        self.dtypes = into.dtype, out.dtype

    def for_products(
        self, into: torch.Tensor, out: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A of shape (experts, rank, in), and scaled B of (experts, out, rank), in ``dtype``.

        Zeros fill the rank up to one that a GPU's kernel takes.
        """
        rank = self.rank + -self.rank % (ALIGNMENT_BYTES // dtype.itemsize)
        make = into.new_empty if rank == self.rank else into.new_zeros
        padded_into = make((self.experts, rank, into.shape[1]), dtype=dtype)
        padded_out = make((self.experts, out.shape[0], rank), dtype=dtype)
        padded_into[:, : self.rank].copy_(into.view(self.experts, self.rank, -1))
        by_expert = out.view(-1, self.rank, self.experts).permute(2, 0, 1)
        torch.mul(by_expert, self.scaling, out=padded_out[..., : self.rank])
        return padded_into, padded_out

    def of_parameters(
        self, of_into: torch.Tensor, of_out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of A and B in their own shapes and dtypes, from those of the padded ones."""
        into = of_into.new_empty((self.experts, self.rank, of_into.shape[2]), dtype=self.dtypes[0])
        into.copy_(of_into[:, : self.rank])
        out = of_out.new_empty((of_out.shape[1], self.rank, self.experts), dtype=self.dtypes[1])
        torch.mul(of_out[..., : self.rank].permute(1, 2, 0), self.scaling, out=out)
        return into.flatten(0, 1), out.flatten(1)


def _rows_by_stack(rows: torch.Tensor, stack: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(rows, in) by (experts, in, out): each row by its own expert's matrix."""
    if _has_kernel(rows, stack.shape[1], stack.shape[2]):
        return functional.grouped_mm(rows, stack, offs=ends)
    # The loop that transformers falls back to; an operator, so that a quantised stack is
    # dequantised once and not for each expert, and that it has a shape without data.
    return torch.ops.transformers.grouped_mm_fallback(rows, stack, ends)


def _rows_by_rows(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(rows, one) by (rows, other) -> (experts, one, other): each expert's sum over its rows."""
    if _has_kernel(left, left.shape[1], right.shape[1]):
        return functional.grouped_mm(left.transpose(0, 1), right, offs=ends)
    sums = left.new_zeros(ends.shape[0], left.shape[1], right.shape[1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(left[start:end].transpose(0, 1), right[start:end], out=sums[expert])
        start = end
    return sums


def _has_kernel(rows: torch.Tensor, *widths: int) -> bool:
    """Whether `grouped_mm` takes matrices of these widths where the rows are.

    On a CPU it is a loop too, and measured slower than the one here (torch 2.13).
    """
    step = ALIGNMENT_BYTES // rows.dtype.itemsize
    return (
        rows.is_cuda
        and torch.cuda.get_device_capability(rows.device) >= (8, 0)
        and all(width % step == 0 for width in widths)
        and kernel_is_right(rows.device, rows.dtype)
    )


@functools.cache
def kernel_is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `grouped_mm` computes what single products compute; tried once a device and dtype.

    On some pairs of GPU and torch it has been seen to be wrong for transposed bfloat16 views
    (pytorch#186365), which is what stacks of experts are.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    rows, others, stack = draw(48, 64), draw(48, 32), draw(3, 32, 64)
    bounds = [0, 16, 16, 48]  # one expert without a row
    ends = torch.tensor(bounds[1:], dtype=torch.int32, device=device)
    parts = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    by_stack = functional.grouped_mm(rows, stack.transpose(1, 2), offs=ends)
    by_rows = functional.grouped_mm(others.transpose(0, 1), rows, offs=ends)
    expected_by_stack = torch.cat([rows[part] @ stack[i].t() for i, part in enumerate(parts)])
    expected_by_rows = torch.stack([others[part].t() @ rows[part] for part in parts])
    for ours, expected in ((by_stack, expected_by_stack), (by_rows, expected_by_rows)):
        error = (ours.float() - expected.float()).norm() / expected.float().norm()
        if not error < 10 * torch.finfo(dtype).eps:
            logger.warning(
                "grouped_mm of torch %s computes wrong products here (%s, error %.1g): experts "
                "are computed one by one, which is slower", torch.__version__, dtype, error,
            )  # fmt: skip
            return False
    return True
