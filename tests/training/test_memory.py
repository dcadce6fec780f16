from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from training.tiny_student import build_student
from transformers import Qwen3MoeConfig

from prompt_distillation.training.adapter import LoraSettings, lora_config
from prompt_distillation.training.expert_lora import set_expert_lora
from prompt_distillation.training.memory import Plan, account
from prompt_distillation.training.targets import find_targets

LORA = LoraSettings(rank=8, alpha=16, expert_rank=4, targets="all-linear")
PLAN = Plan(
    base_dtype_bytes=4,
    lora=LORA,
    tokens_per_pass=96,
    trained_tokens_per_pass=8,
    gradient_checkpointing=False,
    optimizer="adamw_torch",
    on_gpu=False,
)


@pytest.fixture(scope="module")
def model():
    return build_student("qwen3_moe", 400)


def test_lasting_memory_is_counted_from_the_shapes(model):
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counted = account(model.config, PLAN)
    assert counted.weights == 4 * parameters
    targets = find_targets(model, "all-linear")
    adapted = get_peft_model(
        build_student("qwen3_moe", 400), lora_config(LORA, targets, expert_rank=4)
    )
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert counted.adapters == counted.gradients == 4 * trained
    assert counted.optimizer == 8 * trained
    full = account(model.config, replace(PLAN, lora=None))
    assert (full.adapters, full.gradients) == (0, 4 * parameters)
    assert account(model.config, replace(PLAN, optimizer="adamw_8bit")).optimizer == 2 * trained


@pytest.mark.parametrize(
    ("kind", "expert_lora"),
    [("qwen3_moe", "activations"), ("qwen3_moe", "folded"), ("qwen3", "auto"), ("gpt2", "auto")],
)
def test_counted_activations_are_what_a_real_forward_pass_saves(kind, expert_lora):
    model = build_student(kind, 400)
    targets = find_targets(model, "all-linear")
    adapter = lora_config(LORA, targets, expert_rank=4)
    set_expert_lora(model, adapter, targets, expert_lora)
    adapted = get_peft_model(model, adapter).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    hidden = torch.randn(1, PLAN.tokens_per_pass, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Held until the bytes are added up: freed storages would share addresses.
        output = adapted.get_base_model().base_model(
            inputs_embeds=hidden,
            position_ids=torch.arange(PLAN.tokens_per_pass)[None],
            use_cache=False,
        )
    assert output is not None
    lora = replace(LORA, expert_lora=expert_lora)
    counted = account(build_student(kind, 400).config, replace(PLAN, lora=lora))
    assert counted.layers == pytest.approx(sum(saved.values()), rel=0.1)


def test_checkpointing_keeps_one_layer_and_the_layer_inputs(model):
    without = account(model.config, PLAN)
    with_it = account(model.config, replace(PLAN, gradient_checkpointing=True))
    assert with_it.layers == without.layers / 2
    assert with_it.checkpoints == 2 * 96 * 32 * 4
    assert with_it.total < without.total


@pytest.mark.slow
def test_the_reference_rank_on_every_expert_does_not_fit_80_gib_and_the_default_does():
    config = Qwen3MoeConfig(
        vocab_size=151936, hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128,
        num_experts_per_tok=8,
    )  # fmt: skip
    plan = Plan(
        base_dtype_bytes=2,
        lora=LoraSettings(
            rank=32, alpha=16, expert_rank=32, targets="all-linear", expert_lora="folded"
        ),
        tokens_per_pass=8192,
        trained_tokens_per_pass=64,
        gradient_checkpointing=True,
        optimizer="adamw_torch",
        on_gpu=True,
    )
    assert account(config, plan).total / 2**30 > 80
    lora = replace(plan.lora, expert_rank=None)
    assert account(config, replace(plan, lora=lora)).total / 2**30 < 70
