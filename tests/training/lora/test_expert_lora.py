"""Expert adapters on activations against PEFT's folding: same numbers, same file."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners import lora
from safetensors.torch import load_file
from training.tiny_student import build_student
from transformers import GptOssConfig, GptOssForCausalLM

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.errors import ConfigError
from prompt_distillation.training.lora import expert_lora
from prompt_distillation.training.lora.adapter import find_targets, lora_config
from prompt_distillation.training.lora.expert_lora import find_obstacle, set_expert_lora

# A rank of 3 is no multiple of what a GPU's kernel takes.
LORA = LoraSettings(lora_rank=8, lora_expert_rank=3, lora_targets="all-linear")
IDS = torch.randint(3, 400, (2, 19), generator=torch.Generator().manual_seed(0))


def adapt(model, way, *, settings=LORA, **changes):
    """The model under a random adapter; the same one for every way."""
    targets = find_targets(model, settings.lora_targets)
    config = lora_config(model, settings, targets)
    for name, value in changes.items():
        setattr(config, name, value)
    assert set_expert_lora(model, config, targets, way) == (way == "activations")
    adapted = get_peft_model(model, config)
    fill(adapted)
    return adapted.train()


def fill(adapted):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)


def both(*, kind="qwen3_moe", dtype=torch.float32, **options):
    build = {"gpt_oss": build_gpt_oss}.get(kind, lambda: build_student(kind, 400))
    return tuple(adapt(build().to(dtype), way, **options) for way in ("activations", "folded"))


def build_gpt_oss():
    """Experts with biases, transposed stacks and a gate of their own."""
    torch.manual_seed(0)
    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=400, hidden_size=32, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_local_experts=4,
            num_experts_per_tok=2, initializer_range=0.2, layer_types=["full_attention"],
        )
    )  # fmt: skip


def step(model, **inputs):
    """Loss, gradients by name, and the gradient of the embedded input."""
    model.zero_grad()
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    loss = model(inputs_embeds=embedded, labels=IDS, use_cache=False, **inputs).loss
    loss.backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return loss.detach(), trained | {"input": embedded.grad}


def assert_same_step(first, second, *, rtol=1e-4, atol=1e-6):
    torch.testing.assert_close(first[0], second[0], rtol=rtol, atol=atol)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], rtol=rtol, atol=atol, msg=name)


def experts_of(model):
    return model.get_base_model().model.layers[0].mlp.experts.get_base_layer()


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_a_step_is_that_of_peft(kind):
    ours, theirs = both(kind=kind)
    assert_same_step(step(ours), step(theirs))


# PEFT warns that patterns for parameters "were ignored", though they are not (0.21.2).
@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"mlp.experts.gate_up_proj": 3, "mlp.experts.down_proj": 5}},
        {"rank_pattern": {r"mlp\.experts\.down_proj": 4, "q_proj": 2}},
        {"target_parameters": ["mlp.experts.down_proj"]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ],
    ids=str,
)
def test_every_setting_of_the_adapter_means_what_it_means_to_peft(changes):
    ours, theirs = both(**changes)
    assert_same_step(step(ours), step(theirs))


def test_in_bfloat16_it_is_nearer_to_the_exact_numbers_than_folding():
    """Folding rounds a weight and its update into one bfloat16; here the update is by itself."""
    exact_loss, exact = step(both()[1])
    errors = []
    for model in both(dtype=torch.bfloat16):
        loss, gradients = step(model)
        assert loss.item() == pytest.approx(exact_loss.item(), rel=0.02)
        experts = [name for name in gradients if "experts" in name]
        assert experts
        differences = [(gradients[n].float() - exact[n]).norm() / exact[n].norm() for n in experts]
        errors.append(torch.stack(differences).mean().item())
    ours, theirs = errors
    assert ours < 0.1
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("chosen", ["one", "never the last", "one per token"])
def test_experts_with_all_tokens_and_with_none(chosen):
    """A layer by itself, with the routing set by hand."""
    ours, theirs = (experts_wrapper(model) for model in both())
    hidden = torch.randn(11, 32, generator=torch.Generator().manual_seed(2))
    ids = {
        "one": torch.full((11, 1), 2),
        "never the last": torch.stack([torch.arange(11) % 3, (torch.arange(11) + 1) % 3], 1),
        "one per token": (torch.arange(11) % 4)[:, None],
    }[chosen]
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3))
    results = []
    for wrapper in (ours, theirs):
        inputs = hidden.clone().requires_grad_(), weights.clone().requires_grad_()
        output = wrapper(inputs[0], ids, inputs[1])
        output.square().sum().backward()
        trained = [p.grad for n, p in wrapper.named_parameters() if "lora_" in n]
        results.append([output.detach(), inputs[0].grad, inputs[1].grad, *trained])
    assert len(results[0]) == 7
    for mine, pefts in zip(*results, strict=True):
        torch.testing.assert_close(mine, pefts, rtol=1e-4, atol=1e-5)


def experts_wrapper(model):
    return model.get_base_model().model.layers[0].mlp.experts


def test_an_expert_without_tokens_has_a_gradient_of_zeros():
    """DDP waits for the gradient of every parameter."""
    ours, _ = both()
    wrapper = experts_wrapper(ours)
    hidden = torch.randn(5, 32, requires_grad=True)
    wrapper(hidden, torch.zeros(5, 1, dtype=torch.long), torch.ones(5, 1)).sum().backward()
    for name, parameter in wrapper.named_parameters():
        if "lora_A" in name:
            by_expert = parameter.grad.view(4, -1, parameter.shape[1])
            assert by_expert[0].abs().max() > 0
            assert by_expert[1:].abs().max() == 0


def test_padded_rows_are_as_peft_has_them():
    mask = torch.ones_like(IDS)
    mask[1, 12:] = 0
    ours, theirs = both()
    assert_same_step(step(ours, attention_mask=mask), step(theirs, attention_mask=mask))


def test_checkpointing_changes_nothing():
    ours, _ = both()
    plain = step(ours)
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_step(plain, step(ours), rtol=1e-6, atol=1e-8)


def test_the_frozen_stacks_are_not_kept_for_the_backward_pass():
    """A stack that is dequantised when it is read would otherwise stay, layer by layer."""
    ours, _ = both()
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours(input_ids=IDS)
    stacks = {(4, 48, 32), (4, 32, 48), (4, 32, 24), (4, 24, 32)}
    assert stacks.isdisjoint(kept)


@pytest.mark.parametrize("writer", ["activations", "folded"])
def test_one_file_for_both_ways_and_for_plain_peft(writer, tmp_path):
    ways = dict(zip(("activations", "folded"), both(), strict=True))
    ways[writer].save_pretrained(tmp_path / "one")
    expected = ways[writer](input_ids=IDS).logits
    plain = PeftModel.from_pretrained(build_student("qwen3_moe", 400), tmp_path / "one")
    assert type(experts_wrapper(plain)) is lora.ParamWrapper
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    # Into a model whose own adapter is another: what resuming from a checkpoint does.
    for way, model in ways.items():
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.zero_()
        model.load_adapter(str(tmp_path / "one"), "default", is_trainable=True)
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
        model.save_pretrained(tmp_path / way)
        again = load_file(tmp_path / way / "adapter_model.safetensors")
        first = load_file(tmp_path / "one" / "adapter_model.safetensors")
        assert list(again) == list(first)
        assert all(torch.equal(again[name], first[name]) for name in first)
        config, first_config = (
            json.loads((tmp_path / name / "adapter_config.json").read_text())
            for name in (way, "one")
        )
        assert config == first_config


def test_merged_switched_off_and_switched_back_on():
    ours, theirs = (model.eval() for model in both())
    adapted = ours(input_ids=IDS).logits
    base = build_student("qwen3_moe", 400).eval()(input_ids=IDS).logits
    with ours.disable_adapter():
        torch.testing.assert_close(ours(input_ids=IDS).logits, base, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(input_ids=IDS).logits, adapted)
    ours.merge_adapter()
    torch.testing.assert_close(ours(input_ids=IDS).logits, adapted, rtol=1e-4, atol=1e-4)
    ours.unmerge_adapter()
    merged = ours.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, adapted, rtol=1e-4, atol=1e-4)
    theirs = theirs.merge_and_unload()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_two_adapters_add_up_as_they_do_in_peft():
    models = both()
    for model in models:
        other = copy.deepcopy(model.peft_config["default"])
        model.add_adapter("other", other)
        fill(model)
        model.base_model.set_adapter(["default", "other"])
    ours, theirs = (model(input_ids=IDS).logits for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_stack_that_is_trained_itself_is_refused():
    ours, _ = both()
    experts_of(ours).down_proj.requires_grad_()
    with pytest.raises(NotImplementedError, match="--expert_lora folded"):
        ours(input_ids=IDS)


def test_auto_falls_back_with_the_reason(monkeypatch, caplog):
    model = build_student("qwen3_moe", 400)
    targets = find_targets(model, "all-linear")
    assert find_obstacle(model, targets) is None
    assert "router_weight" in find_obstacle(
        model, replace(targets, parameters=("x.router_weight",))
    )
    monkeypatch.setattr(expert_lora, "TESTED_PEFT", "0.1")
    config = lora_config(model, LORA, targets)
    assert not set_expert_lora(model, config, targets, "auto")
    assert "PEFT" in caplog.text
    assert "tested with 0.1" in caplog.text
    with pytest.raises(ConfigError, match=r"tested with 0\.1.*--expert_lora folded"):
        set_expert_lora(model, config, targets, "activations")
    assert type(experts_wrapper(get_peft_model(model, config))) is lora.ParamWrapper


def test_a_model_with_experts_of_its_own_making_is_an_obstacle():
    model = build_student("qwen3_moe", 400)
    targets = find_targets(model, "all-linear")
    del model.model.layers[1].mlp.experts.has_gate
    assert "Qwen3MoeExperts has a forward pass of its own" in find_obstacle(model, targets)


def test_experts_spread_over_devices_are_an_obstacle_and_no_mark_of_it_is_none():
    model = build_student("qwen3_moe", 400)
    targets = find_targets(model, "all-linear")
    for layer in model.model.layers:
        vars(layer.mlp.experts).pop("_is_expert_parallel", None)  # as before transformers 5.19
    assert find_obstacle(model, targets) is None
    model.model.layers[1].mlp.experts._is_expert_parallel = True
    assert "spread over several devices" in find_obstacle(model, targets)


def test_a_dense_model_has_nothing_to_choose():
    model = build_student("qwen3", 400)
    targets = find_targets(model, "all-linear")
    assert not set_expert_lora(model, lora_config(model, LORA, targets), targets, "auto")
