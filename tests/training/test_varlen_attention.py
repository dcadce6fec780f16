"""Rows that attend to themselves alone are computed as under the dense mask."""

import itertools

import pytest
import torch
from training.devices import GPU
from training.families import build_family
from training.shapes import qwen3_30b_a3b

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training import varlen_attention
from prompt_distillation.training.lora.adapter import adapt
from prompt_distillation.training.memory.estimate import Workload, estimate_memory
from prompt_distillation.training.varlen_attention import (
    find_obstacle,
    kernel_fault,
    use_varlen_attention,
)

LENGTHS = (5, 1, 11)


def build(name="qwen3_moe", device="cpu", **changes):
    # What the GPU's kernel takes; of the two it takes, the one that rounds less: a router's near
    # tie stays as it is.
    dtype = torch.float16 if device == "cuda" else torch.float32
    return build_family(name, **changes).to(device, dtype)


def end_to_end(device="cpu"):
    """What TRL's collator makes of rows, as the trainer hands it to the model."""
    bounds = list(itertools.accumulate(LENGTHS, initial=0))
    starts = torch.tensor(bounds, dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(0, 128, (1, bounds[-1]), generator=generator).to(device),
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None].to(device),
        "cu_seq_lens_q": starts, "cu_seq_lens_k": starts,
        "max_length_q": max(LENGTHS), "max_length_k": max(LENGTHS), "use_cache": False,
    }  # fmt: skip


def step(model, batch):
    model.zero_grad()
    on_gpu = model.device.type == "cuda"
    with torch.autocast(model.device.type, torch.float16, enabled=on_gpu):
        scores = model(**batch).logits.float().log_softmax(-1)
    scores[..., 7].mean().backward()
    gradients = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return {"scores": scores.detach(), **gradients}


@pytest.fixture
def masks(monkeypatch):
    """Entries of each mask that an attention layer is given."""
    seen = []
    plain = varlen_attention.varlen_attention

    def attention(module, query, key, value, attention_mask, **keywords):
        seen.append(None if attention_mask is None else attention_mask.numel())
        return plain(module, query, key, value, attention_mask, **keywords)

    monkeypatch.setattr(varlen_attention, "varlen_attention", attention)
    return seen


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["qwen3_moe", "llama", "gemma2"])
def test_scores_and_gradients_are_those_of_the_dense_mask(name, checkpointing, device, masks):
    # The second of two layers of Gemma sees all tokens, the first one the last eight.
    gemma = {"sliding_window": 8, "attn_logit_softcapping": None}  # which sdpa leaves out
    changes = gemma if name == "gemma2" else {}
    model = adapt(build(name, device, **changes), LoraSettings(lora_rank=4)).train()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.normal_(std=0.1)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    dense = step(model, end_to_end(device))
    assert use_varlen_attention(model.get_base_model())
    masks.clear()
    ours = step(model, end_to_end(device))
    dense_layers = 1 if name == "gemma2" else 0
    if device == "cpu":  # with flash-attention the GPU's layers are not seen here
        assert masks.count(0) == (2 - dense_layers) * (1 + checkpointing)
        assert len(masks) == 2 * (1 + checkpointing)
    assert ours.keys() == dense.keys()
    tolerance = 0.02 if device == "cuda" else 1e-4
    for part, tensor in ours.items():
        assert (tensor - dense[part]).norm() <= tolerance * dense[part].norm() + 1e-9, part


def test_padded_rows_are_computed_as_before(masks):
    model = build().eval()
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    batch = {"input_ids": torch.arange(18).reshape(2, 9), "attention_mask": mask}
    with torch.no_grad():
        before = model(**batch).logits
        written = model.generate(**batch, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert use_varlen_attention(model)
        masks.clear()
        assert torch.equal(model(**batch).logits, before)
        again = model.generate(**batch, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(again, written)
    assert 0 not in masks


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it runs")
def test_a_kernel_that_does_not_run_is_not_used():
    kernel_fault.cache_clear()
    fault = kernel_fault(torch.device("cpu"), torch.bfloat16, 4, 2, 16)
    assert "varlen_attn does not run here" in (fault or "")


@pytest.mark.parametrize("is_right", [True, False])
def test_a_kernel_that_mixes_rows_is_found(is_right, monkeypatch):
    def kernel(query, key, value, starts, *_, scale, window_size, enable_gqa):
        by_head = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
        starts = starts if is_right else starts[[0, -1]]
        return varlen_attention._row_by_row(*by_head, starts, scale)[0].transpose(0, 1)

    monkeypatch.setattr(varlen_attention, "torch_kernel", lambda: kernel)
    kernel_fault.cache_clear()
    fault = kernel_fault(torch.device("cpu"), torch.bfloat16, 4, 2, 16)
    kernel_fault.cache_clear()
    assert (fault is None) == is_right
    assert is_right or "computes something else here" in fault


def test_a_model_that_does_not_say_where_rows_begin_stays_as_it_is(monkeypatch, caplog):
    model = build()
    inner = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda cu_seq_lens_q=None, **keywords: inner(**keywords)
    )
    assert not use_varlen_attention(model)
    assert model.config._attn_implementation == "sdpa"
    assert "a dense mask, which is slower: Qwen3MoeAttention is not told where" in caplog.text


@pytest.mark.parametrize(
    ("name", "changes", "obstacle"),
    [
        ("qwen3_moe", {}, None),
        ("qwen3_moe", {"attention_dropout": 0.1}, "drops attention weights out"),
        ("gpt_oss", {}, "an attention of its own"),
        ("deepseek_v3", {}, "a shape that the kernel does not take"),
    ],
)
def test_it_is_known_which_models_can(name, changes, obstacle):
    found = find_obstacle(build_family(name, **changes).to(torch.bfloat16), on_gpu=True)
    assert found is None if obstacle is None else obstacle in found
    on_cpu = find_obstacle(build_family(name, **changes), on_gpu=False)
    assert (on_cpu is None) == (obstacle is None or name == "deepseek_v3")


def test_the_memory_estimate_leaves_the_mask_out():
    config = qwen3_30b_a3b()
    config.num_hidden_layers = 2
    sizes = [
        estimate_memory(
            config,
            Workload(
                base_dtype_bytes=2, lora=None, tokens_per_pass=8192, trained_tokens_per_pass=64,
                mask_entries=8192**2, may_attend_by_rows=by_rows, gradient_checkpointing=False,
                optimizer="adamw_torch", on_gpu=True,
            ),
        ).layer
        for by_rows in (False, True)
    ]  # fmt: skip
    # At least the mask as bfloat16 numbers, which each layer keeps.
    assert sizes[0] - sizes[1] >= 2 * 8192**2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("heads", [(32, 4, 128), (8, 8, 64)])
def test_torchs_kernel_is_right_for_real_shapes(heads):
    kernel_fault.cache_clear()
    assert kernel_fault(torch.device("cuda"), torch.bfloat16, *heads) is None
