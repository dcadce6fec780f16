"""Norms in one kernel compute what transformers' do."""

import pytest
import torch
from training.devices import GPU
from training.tiny_student import build_student
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from prompt_distillation.training.fused_norms import fuse_norms, is_fused

IDS = torch.randint(3, 400, (2, 19), generator=torch.Generator().manual_seed(0))


def step(model):
    model.zero_grad()
    loss = model(input_ids=IDS.to(model.device), labels=IDS.to(model.device), use_cache=False).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3"])
def test_loss_and_gradients_are_those_of_the_norms_written_out(kind, device):
    model = build_student(kind, 400).to(device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(mean=1.0, std=0.3)
    plain = step(model)
    # Two layers with four norms, and the last one.
    assert fuse_norms(model) == 9
    torch.testing.assert_close(step(model), plain, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_in_bfloat16_no_number_is_off_by_more_than_a_rounding(device):
    model = build_student("qwen3", 400).to(device, torch.bfloat16)
    norm = model.model.norm
    hidden = torch.randn(3, 7, norm.weight.shape[0], dtype=torch.bfloat16, device=device)
    with torch.autocast(device, torch.bfloat16):
        plain = norm(hidden)
        assert fuse_norms(model)
        fused = norm(hidden)
    assert fused.dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, rtol=2**-7, atol=0)


def test_what_computes_something_else_is_left_alone():
    class GemmaLikeRMSNorm(Gemma2RMSNorm):  # multiplies by 1 + weight
        def __init__(self):
            super().__init__(16)
            self.variance_epsilon = self.eps

    norm = GemmaLikeRMSNorm()
    assert fuse_norms(torch.nn.Sequential(norm)) == 0
    assert not is_fused(norm)
    assert fuse_norms(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2))) == 0


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_inputs_of_another_dtype_than_the_weight_are_left_to_the_family(device):
    model = build_student("qwen3", 400).to(device)
    norm = model.model.norm
    hidden = torch.randn(3, norm.weight.shape[0], dtype=torch.bfloat16, device=device)
    plain = norm(hidden)
    assert fuse_norms(model)
    # Full fine-tuning: float32 weights, and what autocast has made bfloat16.
    assert plain.dtype == torch.float32
    assert torch.equal(norm(hidden), plain)


def test_weights_that_are_elsewhere_and_hooked_modules_are_left_alone():
    model = build_student("qwen3", 400)
    model.model.norm.weight = torch.nn.Parameter(torch.empty(0))  # ZeRO-3
    hooked = model.model.layers[0].input_layernorm
    hooked.forward = hooked.forward
    assert fuse_norms(model) == 7
    assert not is_fused(model.model.norm)
    assert not is_fused(hooked)
