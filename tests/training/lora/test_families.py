"""`all-linear` on the families of students: what is asked for is adapted, saved, and loaded."""

import pytest
import torch
from peft import PeftModel
from training.families import CONFIGS, build_family

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.training.loading import rows_stay_apart
from prompt_distillation.training.lora import adapter as adapter_module
from prompt_distillation.training.lora.adapter import adapt, trained_kinds

LORA = LoraSettings(lora_rank=6, lora_expert_rank=3)
IDS = torch.arange(3, 20)[None]
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
BESIDE_EXPERTS = {
    "qwen3_moe_dense_layer": MLP,
    "qwen3_next": {name.replace("mlp.", "mlp.shared_expert.") for name in MLP},
    "qwen3_5_moe": {name.replace("mlp.", "mlp.shared_expert.") for name in MLP},
    "glm4_moe": MLP | {name.replace("mlp.", "mlp.shared_experts.") for name in MLP},
    "deepseek_v3": MLP | {name.replace("mlp.", "mlp.shared_experts.") for name in MLP},
    "qwen3": MLP,
    "llama": MLP,
    "gemma2": MLP,
    "gemma3": MLP,
}
EXPERTS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
DENSE = {"qwen3", "llama", "gemma2", "gemma3"}
MIXED = {"qwen3_next", "qwen3_5_moe", "gpt_oss"}


def trained(name):
    model = adapt(build_family(name), LORA)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_every_linear_layer_and_expert_is_adapted_at_its_rank(name):
    kinds = trained_kinds(trained(name))
    ranks = {kind.kind: kind.rank for kind in kinds}
    assert {kind for kind in ranks if kind in EXPERTS} == (set() if name in DENSE else EXPERTS)
    assert BESIDE_EXPERTS.get(name, set()) <= ranks.keys()
    assert any("attn" in kind for kind in ranks)
    assert not {"mlp.gate", "mlp.router", "lm_head", "mlp.shared_expert_gate"} & ranks.keys()
    assert all(rank == (3 if kind in EXPERTS else 6) for kind, rank in ranks.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_trains_is_saved_and_is_the_same_in_plain_peft_and_merged(name, tmp_path):
    model = trained(name)
    loss = model.train()(IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    expected = model.eval()(IDS, use_cache=False).logits
    base = build_family(name).eval()(IDS, use_cache=False).logits
    assert (expected - base).abs().max() > 0.01
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(build_family(name), tmp_path).eval()
    tolerance = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(plain(IDS, use_cache=False).logits, expected, **tolerance)
    merged = plain.merge_and_unload()
    torch.testing.assert_close(merged(IDS, use_cache=False).logits, expected, **tolerance)
    # Into a model with an adapter of its own: what resuming does.
    again = adapt(build_family(name), LORA).eval()
    again.load_adapter(str(tmp_path), "default", is_trainable=True)
    torch.testing.assert_close(again(IDS, use_cache=False).logits, expected, **tolerance)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
def test_what_peft_adapts_otherwise_is_refused(monkeypatch):
    monkeypatch.setattr(adapter_module, "_renamed_by_peft", lambda *unused: frozenset())
    with pytest.raises(ModelError, match=r"mlp\.gate_proj has no adapter instead of rank 6"):
        adapt(build_family("glm4_moe"), LORA)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LoraSettings(lora_rank=1000), "--lora_rank is 1000, and no adapted layer .* than 32"),
        (LoraSettings(lora_expert_rank=33), "--lora_expert_rank is 33, .* than 32"),
    ],
)
def test_a_rank_above_every_width_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        adapt(build_family("qwen3_moe"), settings)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_known_which_families_mix_rows_that_are_laid_end_to_end(name):
    assert rows_stay_apart(build_family(name)) == (name not in MIXED)
