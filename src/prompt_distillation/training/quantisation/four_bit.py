"""A weight held in four bits that reads, to every library, as the tensor it was.

bitsandbytes puts 4-bit weights into linear layers of its own; fused expert stacks are no layers,
and are 97 % of a 30B-A3B model. Here the tensor is quantised instead of the layer, by bitsandbytes'
kernels: it keeps its shape and dtype, and is dequantised by whatever computes with it. So linear
layers, expert stacks, PEFT's wrappers and our own products take it as it is, and what autograd
keeps for the backward pass are the four bits, not the dequantised weight. (Dettmers et al., QLoRA,
2023, arXiv:2305.14314; torchtune's and torchao's `NF4Tensor` is built the same way.)
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from prompt_distillation.config.train_config import FourBitConfig

_aten = torch.ops.aten


def bytes_per_number(settings: FourBitConfig) -> float:
    """Bytes of a quantised number: four bits, and its share of its block's scale."""
    # A block of 64 has a float32; doubly quantised a byte, and a float32 for 256 of those.
    scales = 1 + 4 / 256 if settings.use_bnb_nested_quant else 4
    return 0.5 + scales / 64


class FourBitTensor(torch.Tensor):  # type: ignore[misc]
    """A frozen tensor of two or more dimensions in blocks of 64 four-bit values and their scales.

    Args:
        packed: uint8 of shape (ceil(numbers / 2), 1).
        state: `bitsandbytes.functional.QuantState`: scales and code book, for the flat tensor.
        shape: of the weight.
        dtype: that it is dequantised to.
        transposed: the last two dimensions are read the other way round than they are packed.
    """

    @staticmethod
    def __new__(
        cls,
        packed: torch.Tensor,
        state: Any,
        shape: Sequence[int],
        dtype: torch.dtype,
        transposed: bool = False,
    ) -> "FourBitTensor":
        """A tensor without data of its own beside ``packed``."""
        tensor: FourBitTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=packed.device
        )
        tensor.packed, tensor.state, tensor.transposed = packed, state, transposed
        return tensor

    @property
    def held_bytes(self) -> int:
        """Bytes of the packed values and their scales."""
        parts = [self.packed, self.state.absmax, self.state.code]
        if self.state.nested:
            parts += [self.state.state2.absmax, self.state.state2.code, self.state.offset]
        return sum(part.numel() * part.element_size() for part in parts)

    def dequantise(self) -> torch.Tensor:
        """The weight as a plain tensor of its shape and dtype."""
        import bitsandbytes.functional as bnb

        state = copy.copy(self.state)
        state.dtype = self.dtype
        flat = bnb.dequantize_4bit(self.packed, state)
        if not self.transposed:
            return flat.reshape(self.shape)
        return flat.reshape(*self.shape[:-2], self.shape[-1], self.shape[-2]).transpose(-2, -1)

    def __repr__(self) -> str:
        kind = self.state.quant_type
        return f"FourBitTensor({kind}, {tuple(self.shape)}, {self.dtype}, {self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "FourBitTensor":
        return self._like(self)  # frozen: a copy may share what it holds

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Keep the bits through what changes the view only; dequantise for everything else."""
        options = dict(kwargs or {})
        keep = _KEEPING.get(func)
        if keep is not None:
            kept = keep(*args, **options)
            if kept is not None:
                return kept
        if func._schema.is_mutable and isinstance(args[0], cls):
            raise RuntimeError(
                f"{func} would change a weight held in 4 bits; it is frozen: merge the adapter "
                "into the model as it was before quantisation"
            )
        plain = tree_map_only(cls, cls.dequantise, (args, options))
        return func(*plain[0], **plain[1])

    def _like(self, other: "FourBitTensor", **changes: Any) -> "FourBitTensor":
        values = {"dtype": other.dtype, "shape": other.shape, "transposed": other.transposed}
        values |= {"packed": other.packed, "state": other.state} | changes
        return FourBitTensor(**values)


def quantise(weight: torch.Tensor, settings: FourBitConfig) -> FourBitTensor:
    """Hold ``weight`` in four bits."""
    import bitsandbytes.functional as bnb

    # Flat: on a CPU bitsandbytes 0.50.2 dequantises rows of another length than a multiple of its
    # blocks of 64 wrongly (e.g. 32 or 96; AVX-512 kernels).
    packed, state = bnb.quantize_4bit(
        weight.detach().reshape(-1),
        quant_type=settings.bnb_4bit_quant_type,
        compress_statistics=settings.use_bnb_nested_quant,
    )
    return FourBitTensor(packed, state, weight.shape, weight.dtype)


def _same(tensor: FourBitTensor, *unused: Any, **ignored: Any) -> FourBitTensor:
    return tensor._like(tensor)


def _swap(tensor: FourBitTensor) -> FourBitTensor:
    shape = (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2])
    return tensor._like(tensor, shape=shape, transposed=not tensor.transposed)


def _transpose(tensor: FourBitTensor, first: int, second: int) -> FourBitTensor | None:
    last_two = {tensor.ndim - 2, tensor.ndim - 1}
    return _swap(tensor) if {first % tensor.ndim, second % tensor.ndim} == last_two else None


def _to(tensor: FourBitTensor, **options: Any) -> FourBitTensor:
    dtype, device = options.get("dtype") or tensor.dtype, options.get("device") or tensor.device
    state = tensor.state
    if device != tensor.device:
        state = copy.deepcopy(state)
        state.to(device)
    return tensor._like(tensor, packed=tensor.packed.to(device), state=state, dtype=dtype)


def _set(tensor: FourBitTensor, source: FourBitTensor) -> FourBitTensor | None:
    # What `torch.nn.utils.parametrize` does first, and PEFT with it: the weight is set to itself.
    itself = isinstance(source, FourBitTensor) and source.packed is tensor.packed
    return tensor if itself else None


_KEEPING: Mapping[Any, Callable[..., FourBitTensor | None]] = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _same,
    _aten.t.default: _swap,
    _aten.transpose.int: _transpose,
    _aten._to_copy.default: _to,
    _aten.set_.source_Tensor: _set,
}
"""Operations after which a weight is still held in four bits; None sends it the other way."""
