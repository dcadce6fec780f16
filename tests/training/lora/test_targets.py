import pytest
import torch
from peft import PeftModel
from training.tiny_student import build_student

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.errors import ConfigError
from prompt_distillation.training.lora.adapter import (
    TrainedKind,
    adapt,
    count_parameters,
    default_expert_rank,
    find_targets,
    trained_kinds,
)

ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def adapted(model, *, expert_rank=4, expert_lora="auto"):
    settings = LoraSettings(lora_rank=8, lora_expert_rank=expert_rank, expert_lora=expert_lora)
    return adapt(model, settings)


def test_all_linear_reaches_attention_and_fused_experts_but_not_the_router():
    model = adapted(build_student("qwen3_moe", 400))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("mlp.gate." in name or "lm_head" in name for name in trained)
    assert trained_kinds(model) == [
        *(
            TrainedKind(kind=f"self_attn.{name}", rank=8, count=2, parameters=2 * 8 * size)
            for name, size in [
                ("q_proj", 96),
                ("k_proj", 64),
                ("v_proj", 64),
                ("o_proj", 96),
            ]
        ),
        # 2 layers x 4 experts x rank 4 x (in + out): 24 + 32 and 32 + 48.
        TrainedKind(kind="mlp.experts.down_proj", rank=4, count=2, parameters=2 * 4 * 4 * 56),
        TrainedKind(kind="mlp.experts.gate_up_proj", rank=4, count=2, parameters=2 * 4 * 4 * 80),
    ]
    assert count_parameters(model)[0] == sum(kind.parameters for kind in trained_kinds(model))


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("qwen3", {*ATTENTION, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))}),
        ("gpt2", {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ],
)
def test_all_linear_of_dense_models_is_everything_but_the_output(kind, modules):
    targets = find_targets(build_student(kind, 400), "all-linear")
    assert set(targets.modules) == modules
    assert targets.parameters == ()


def test_targets_can_be_attention_or_named():
    model = build_student("qwen3_moe", 400)
    assert find_targets(model, "attention").modules == ATTENTION
    assert find_targets(model, "attention").parameters == ()
    named = find_targets(model, "q_proj, mlp.experts.down_proj")
    assert named.modules == ("self_attn.q_proj",)
    assert named.parameters == ("mlp.experts.down_proj",)
    with pytest.raises(ConfigError, match=r"no layer is called 'q_porj'.*self_attn\.q_proj"):
        find_targets(model, "q_porj")


def test_the_expert_rank_is_the_rank_over_the_active_experts():
    config = build_student("qwen3_moe", 400).config
    assert default_expert_rank(config, 32) == 16
    assert default_expert_rank(config, 1) == 1
    assert default_expert_rank(build_student("qwen3", 400).config, 32) == 32


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_each_expert_has_its_own_update_and_every_implementation_sees_it(experts, tmp_path):
    model = adapted(build_student("qwen3_moe", 400), expert_rank=2, expert_lora="folded")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and "experts" in name:
                parameter.normal_()
    ids = torch.arange(40).reshape(2, 20)
    model.set_experts_implementation("eager")
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    expected = model(input_ids=ids).logits
    model.set_experts_implementation(experts)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-3)
    assert (expected - base).abs().max() > 0.01

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_student("qwen3_moe", 400), tmp_path)
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3"])
def test_parameters_that_zero_3_has_cut_are_known_by_their_whole_shape(kind):
    model = build_student(kind, 400)
    whole = find_targets(model, "all-linear")
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)  # as DeepSpeed leaves them
    assert find_targets(model, "all-linear") == whole
