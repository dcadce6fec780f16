from dataclasses import replace

import pytest
import torch
from training.shapes import qwen3_30b_a3b
from training.tiny_student import build_student
from transformers import Trainer, TrainingArguments

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training.lora.adapter import adapt
from prompt_distillation.training.memory.estimate import Workload, estimate_memory
from prompt_distillation.training.memory.plan import SPARE

LORA = LoraSettings(lora_rank=8, lora_expert_rank=4, lora_targets="all-linear")
PLAN = Workload(
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
    counted = estimate_memory(model.config, PLAN)
    assert counted.weights == 4 * parameters
    adapted = adapt(build_student("qwen3_moe", 400), LORA)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert counted.adapters == counted.gradients == 4 * trained
    assert counted.optimizer == 8 * trained
    full = estimate_memory(model.config, replace(PLAN, lora=None))
    assert (full.adapters, full.gradients) == (0, 4 * parameters)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("adamw_bnb_8bit", 2), ("paged_adamw_8bit", 2), ("lion_8bit", 1), ("ademamix_8bit", 3),
        ("paged_adamw_32bit", 2), ("rmsprop_bnb", 1),
    ],
)  # fmt: skip
def test_the_optimizers_state_is_what_bitsandbytes_holds_after_a_step(name, moments, tmp_path):
    lora = replace(LORA, lora_rank=32)  # tensors on both sides of 4,096 numbers
    model = build_student("qwen3", 400, hidden=160)
    adapted = adapt(model, lora)
    arguments = TrainingArguments(
        str(tmp_path), optim=name, use_cpu=True, bf16=False, report_to="none"
    )
    optimizer = Trainer(adapted, arguments).create_optimizer()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        value.nbytes
        for state in optimizer.state.values()
        for key, value in state.items()
        if key.startswith(("state", "absmax"))
    )
    counted = estimate_memory(model.config, replace(PLAN, lora=lora, optimizer=name)).optimizer
    assert counted == held
    numbers = sum(parameter.numel() for parameter in trained)
    assert (counted < 4 * moments * numbers) == ("8bit" in name)


@pytest.mark.parametrize(
    ("kind", "expert_lora", "dropout"),
    [
        ("qwen3_moe", "activations", 0.0), ("qwen3_moe", "folded", 0.0), ("qwen3", "auto", 0.0),
        ("gpt2", "auto", 0.0), ("gpt2", "auto", 0.1),
    ],
)  # fmt: skip
def test_counted_activations_are_what_a_real_forward_pass_saves(kind, expert_lora, dropout):
    model = build_student(kind, 400)
    if kind == "gpt2":
        model.config.update({"resid_pdrop": dropout, "attn_pdrop": dropout})
        model = type(model)(model.config)
    adapted = adapt(model, replace(LORA, expert_lora=expert_lora)).train()
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
            attention_mask=torch.ones(1, 1, 96, 96, dtype=torch.bool).tril(),
            position_ids=torch.arange(PLAN.tokens_per_pass)[None],
            use_cache=False,
        )
    assert output is not None
    lora = replace(LORA, expert_lora=expert_lora)
    counted = estimate_memory(model.config, replace(PLAN, lora=lora, mask_entries=96 * 96))
    assert counted.layers == pytest.approx(sum(saved.values()), rel=0.02)


def test_gradients_stand_beside_activations_only_where_a_step_has_several_passes(model):
    once = estimate_memory(model.config, replace(PLAN, lora=None))
    twice = estimate_memory(model.config, replace(PLAN, lora=None, passes=2))
    assert twice.total == once.total + once.gradients


def test_checkpointing_keeps_one_layer_and_the_layer_inputs(model):
    without = estimate_memory(model.config, PLAN)
    with_it = estimate_memory(model.config, replace(PLAN, gradient_checkpointing=True))
    assert with_it.layers == without.layers - without.layer
    assert with_it.checkpoints == 2 * 96 * 32 * 4
    assert with_it.total < without.total


@pytest.mark.slow
def test_the_reference_rank_on_every_expert_does_not_fit_80_gib_and_the_default_does():
    config = qwen3_30b_a3b()
    plan = Workload(
        base_dtype_bytes=2,
        lora=LoraSettings(lora_rank=32, lora_expert_rank=32, expert_lora="folded"),
        tokens_per_pass=8192,
        trained_tokens_per_pass=64,
        gradient_checkpointing=True,
        optimizer="adamw_torch",
        on_gpu=True,
    )
    assert estimate_memory(config, plan).total / 2**30 > 80 * (1 - SPARE)
    lora = replace(plan.lora, lora_expert_rank=None)
    assert estimate_memory(config, replace(plan, lora=lora)).total / 2**30 < 70
