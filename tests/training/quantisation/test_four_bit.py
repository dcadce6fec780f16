import copy

import pytest
import torch
from torch.nn.functional import grouped_mm, linear
from training.devices import GPU

from prompt_distillation.config.train_config import FourBitConfig
from prompt_distillation.training.quantisation.four_bit import (
    FourBitTensor,
    bytes_per_number,
    quantise,
)

pytest.importorskip("bitsandbytes")

BLOCK = 64


def held(*shape, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    return quantise(torch.randn(shape, dtype=dtype), FourBitConfig(**settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 64), (48, 32), (48, 96), (4, 48, 32), (4, 32, 24), (5, 6)])
def test_a_weight_comes_back_from_its_sixteen_values_and_its_blocks_scales(shape, dtype):
    tensor = held(*shape, dtype=dtype)
    codes = torch.stack([tensor.packed.flatten() >> 4, tensor.packed.flatten() & 15], dim=1)
    values = tensor.state.code[codes.flatten().long()][: tensor.numel()]
    scales = tensor.state.absmax.repeat_interleave(BLOCK)[: tensor.numel()]
    expected = (values * scales).reshape(shape).to(dtype)
    assert torch.equal(tensor.dequantise(), expected)
    assert (tensor.shape, tensor.dtype) == (expected.shape, dtype)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_what_four_bits_and_their_scales_take_and_cost(quant_type):
    shape = (16, 256, 256)
    once, twice = (
        held(*shape, bnb_4bit_quant_type=quant_type, use_bnb_nested_quant=d) for d in (False, True)
    )
    for tensor, double_quant in ((once, False), (twice, True)):
        each = bytes_per_number(FourBitConfig(use_bnb_nested_quant=double_quant))
        # The two code books of 16 and 256 values come on top, once a weight.
        assert tensor.held_bytes == pytest.approx(tensor.numel() * each, rel=0.003)
    torch.manual_seed(0)
    weight = torch.randn(shape)
    error = (once.dequantise() - weight).abs().mean() / weight.abs().mean()
    again = (twice.dequantise() - weight).abs().mean() / weight.abs().mean()
    assert 0.05 < error < 0.15
    assert again == pytest.approx(float(error), rel=0.02)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_products_are_those_of_the_dequantised_weight_forward_and_backward(device):
    options = {"dtype": torch.bfloat16, "device": device}
    torch.manual_seed(0)
    settings = FourBitConfig(use_bnb_nested_quant=True)
    weight = quantise(torch.randn(48, 32, **options), settings)
    stack = quantise(torch.randn(4, 48, 32, **options), settings)
    tokens = torch.randn(12, 32, requires_grad=True, **options)
    ends = torch.tensor([3, 3, 8, 12], dtype=torch.int32, device=device)
    for product in (
        lambda w, s: linear(tokens, w),
        lambda w, s: torch.addmm(torch.ones(48, **options), tokens, w.t()),
        lambda w, s: grouped_mm(tokens, s.transpose(-2, -1), offs=ends),
        lambda w, s: linear(tokens, s[2]),
    ):
        ours = product(weight, stack)
        plain = product(weight.dequantise(), stack.dequantise())
        assert torch.equal(ours, plain)
        into = torch.randn_like(ours)
        (ours_grad,) = torch.autograd.grad(ours, tokens, into)
        (plain_grad,) = torch.autograd.grad(plain, tokens, into)
        assert torch.equal(ours_grad, plain_grad)


def test_autograd_keeps_the_bits_and_not_the_weight():
    kept = []

    def keep(tensor):
        kept.append(type(tensor))
        return tensor

    tokens = torch.randn(12, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(tokens, held(48, 32))
    assert kept == [FourBitTensor]


def test_it_moves_between_dtypes_and_copies_but_does_not_change():
    tensor = held(48, 32)
    weight = torch.nn.Parameter(tensor, requires_grad=False)
    half = weight.to(torch.bfloat16)
    assert isinstance(half, FourBitTensor)
    assert half.dequantise().dtype == torch.bfloat16
    assert torch.equal(weight.t().dequantise(), tensor.dequantise().t())
    assert isinstance(copy.deepcopy(weight), FourBitTensor)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(2, 32), weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="held in 4 bits"):
        weight.data += 1
    assert "nf4" in repr(weight)
