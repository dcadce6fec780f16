"""Products of grouped rows against a product per expert, in float64."""

import pytest
import torch
from training.devices import GPU

from prompt_distillation.training.lora import grouped_products
from prompt_distillation.training.lora.grouped_products import (
    AdaptedProduct,
    FrozenStack,
    LowRank,
    group_by_expert,
    kernel_is_right,
)

EXPERTS, TOKENS, IN, OUT, RANK = 8, 50, 64, 48, 3


class Stack(torch.nn.Module):
    """As an experts module of transformers holds its weights: (experts, out, in)."""

    is_transposed = False

    def __init__(self, **options):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(EXPERTS, OUT, IN, **options), False)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_products_and_gradients_are_those_of_each_expert_alone(device, dtype, tolerance):
    torch.manual_seed(0)
    chosen = torch.randint(0, EXPERTS - 2, (TOKENS, 2))
    chosen[chosen == 3] = 4  # among others, and at the end, experts without a row
    chosen = chosen.to(device)
    groups = group_by_expert(chosen, EXPERTS)
    stack = Stack(dtype=dtype, device=device)
    tokens = torch.randn(TOKENS, IN, dtype=dtype, device=device, requires_grad=True)
    into = torch.randn(EXPERTS * RANK, IN, device=device, requires_grad=True)
    out = torch.randn(OUT, RANK * EXPERTS, device=device, requires_grad=True)
    inputs = (tokens, into, out)
    update = LowRank(into, out, scaling=0.5)
    rows = AdaptedProduct.of(tokens, FrozenStack(stack, "weight"), update, groups, gather=True)
    back = torch.randn_like(rows)
    gradients = torch.autograd.grad(rows, inputs, back)

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    experts = chosen.reshape(-1)[groups.order]
    by_expert = exact[2].view(OUT, RANK, EXPERTS).permute(2, 0, 1)
    weight = stack.weight.double() + 0.5 * by_expert @ exact[1].view(EXPERTS, RANK, IN)
    expected = torch.einsum("ri,roi->ro", exact[0][groups.tokens], weight[experts])
    wanted = torch.autograd.grad(expected, exact, back.double())
    for ours, theirs in zip((rows, *gradients), (expected, *wanted), strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < tolerance
    for idle in (3, EXPERTS - 1):
        assert not gradients[1].view(EXPERTS, RANK, IN)[idle].any()
        assert not gradients[2].view(OUT, RANK, EXPERTS)[..., idle].any()


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("spoilt", ["nothing", "stack", "rows"])
def test_a_kernel_that_computes_wrong_products_is_found_and_not_used(
    device, spoilt, monkeypatch, caplog
):
    plain = grouped_products.functional.grouped_mm

    def kernel(left, right, **options):
        product = plain(left, right, **options)
        is_spoilt = {"nothing": None, "stack": 3, "rows": 2}[spoilt] == right.dim()
        return product.flip(-1) if is_spoilt else product

    monkeypatch.setattr(grouped_products.functional, "grouped_mm", kernel)
    kernel_is_right.cache_clear()
    assert kernel_is_right(torch.device(device), torch.bfloat16) == (spoilt == "nothing")
    assert ("computes wrong products" in caplog.text) == (spoilt != "nothing")
    kernel_is_right.cache_clear()
