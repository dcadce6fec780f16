"""Adapters of linear layers in few kernels against PEFT's: same numbers, same file."""

import contextlib

import pytest
import torch
from peft import get_peft_model
from peft.tuners import lora
from training.tiny_student import build_student

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training.lora import linear_lora
from prompt_distillation.training.lora.adapter import adapt, find_targets, lora_config
from prompt_distillation.training.lora.linear_lora import set_linear_lora

LORA = LoraSettings(lora_rank=8, lora_expert_rank=None, lora_targets="attention")
IDS = torch.randint(3, 400, (2, 19), generator=torch.Generator().manual_seed(0))


def adapted(*, ours, dtype=torch.float32, **changes):
    model = build_student("qwen3", 400).to(dtype)
    config = lora_config(model, LORA, find_targets(model, LORA.lora_targets))
    for name, value in changes.items():
        setattr(config, name, value)
    if ours:
        set_linear_lora(config)
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    return model.train()


def step(model, *, autocast=False):
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with context:
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def calls(monkeypatch):
    """How often the products were written out."""
    seen = []
    plain = linear_lora._AddLowRank.apply

    def counted(*arguments):
        seen.append(1)
        return plain(*arguments)

    monkeypatch.setattr(linear_lora._AddLowRank, "apply", counted)
    return seen


def test_a_step_is_that_of_peft(calls):
    ours, theirs = step(adapted(ours=True)), step(adapted(ours=False))
    assert len(calls) == 8  # two layers with four projections
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_it_is_no_further_from_the_exact_numbers_than_peft(calls):
    exact = step(adapted(ours=False))[1]
    halves = [step(adapted(ours=way, dtype=torch.bfloat16), autocast=True)[1] for way in (1, 0)]
    # Adapters and their gradients stay in float32, as PEFT keeps them.
    assert len(calls) == 8
    assert {gradient.dtype for gradient in halves[0].values()} == {torch.float32}
    ours, theirs = (
        sum(float((half[name] - gradient).norm()) for name, gradient in exact.items())
        for half in halves
    )
    assert ours < 1.1 * theirs


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_what_is_special_is_left_to_peft(calls, changes):
    results = []
    for way in (True, False):
        model = adapted(ours=way, **changes)
        torch.manual_seed(0)
        results.append(step(model))
    assert not calls
    torch.testing.assert_close(*results)


def test_another_scaling_is_nothing_special(calls):
    results = [step(adapted(ours=way, use_rslora=True)) for way in (True, False)]
    assert len(calls) == 8
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_float32_adapters_on_a_bfloat16_base_without_autocast_compute_as_peft_does(calls):
    results = [step(adapted(ours=way, dtype=torch.bfloat16)) for way in (True, False)]
    assert not calls
    torch.testing.assert_close(*results)


def test_merged_switched_off_and_answering_are_peft_s(calls):
    ours, theirs = (adapted(ours=way).eval() for way in (True, False))
    for change in ("merge_adapter", "unmerge_adapter", "disable_adapter_layers"):
        for model in (ours, theirs):
            getattr(model.base_model, change)()
        logits = [model(input_ids=IDS).logits for model in (ours, theirs)]
        torch.testing.assert_close(*logits)
    assert not calls


def test_one_file_for_both(tmp_path):
    for name, way in (("ours", True), ("theirs", False)):
        adapted(ours=way).save_pretrained(tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()


def test_what_it_returns_may_be_written_into(calls):
    layer = adapted(ours=True).get_base_model().model.layers[0].self_attn.q_proj
    for shape in ((3, 5, layer.in_features), (5, layer.in_features)):
        outputs = layer(torch.randn(shape))
        outputs += 1  # Falcon adds its attention to what its MLP returned
        outputs.sum().backward()
    assert len(calls) == 2


def test_adapters_that_are_wrapped_are_left_to_peft(calls):
    class Gathering(torch.nn.Linear):  # as FSDP 1 does it: whole only within its forward pass
        pass

    model = adapted(ours=True)
    for module in model.modules():
        if isinstance(module, linear_lora.Linear):
            module.lora_A["default"].__class__ = Gathering
    step(model)
    assert not calls


def test_a_quantised_layer_of_a_users_own_keeps_pefts_wrapper_for_it():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = build_student("qwen3", 400)
    for layer in model.model.layers:  # a subclass of torch's linear layer
        old = layer.self_attn.q_proj
        new = bitsandbytes.nn.Linear4bit(old.in_features, old.out_features, bias=False)
        layer.self_attn.q_proj = new
    model.is_loaded_in_4bit = True
    layers = adapt(model, LORA).get_base_model().model.layers
    assert isinstance(layers[0].self_attn.q_proj, lora.bnb.Linear4bit)
    assert type(layers[0].self_attn.k_proj) is linear_lora.Linear
