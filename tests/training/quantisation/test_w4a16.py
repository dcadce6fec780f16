"""Merged checkpoints in four bits: what is written, and that the real engines load it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.tiny_student import build_tokenizer, save_student, write_rows
from transformers import (
    AutoModelForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from prompt_distillation.cli.train import main as train
from prompt_distillation.errors import ModelError
from prompt_distillation.training.quantisation.w4a16 import pack, quantise_checkpoint

pytest.importorskip("compressed_tensors")

ROOT = Path(__file__).parents[3]
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512,
    "initializer_range": 0.2,
}  # fmt: skip


def save(folder, kind):
    """A random model whose rows fall into groups of 32, with a tokenizer."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = SHAPE | {"vocab_size": len(tokenizer)}
    if kind == "dense":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    else:
        experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts))
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    return model


def read_back(parts, group_size):
    shifts = torch.arange(0, 32, 4)
    values = ((parts["weight_packed"][..., None] >> shifts) & 15).flatten(1) - 8
    scales = parts["weight_scale"].float().repeat_interleave(group_size, dim=1)
    return values * scales


def test_a_weight_is_rounded_to_the_nearest_of_its_sixteen_values():
    torch.manual_seed(0)
    weight = torch.randn(48, 96).to(torch.bfloat16)
    parts = pack(weight, 32)
    assert parts["weight_packed"].shape == (48, 12)
    assert parts["weight_shape"].tolist() == [48, 96]
    assert (parts["weight_scale"].shape, parts["weight_scale"].dtype) == ((48, 3), torch.bfloat16)
    error = (read_back(parts, 32) - weight.float()).square().mean()
    # One rule for the scale of every group leaves more.
    largest = weight.float().reshape(48, 3, 32).abs().amax(-1).repeat_interleave(32, dim=1) / 7.5
    naive = (weight.float() / largest).round().clamp(-8, 7) * largest
    assert error < 0.95 * (naive - weight.float()).square().mean()
    assert not pack(torch.zeros(2, 32), 32)["weight_scale"].isnan().any()


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_transformers_loads_it_with_linear_layers_and_experts_quantised(kind, tmp_path):
    before = save(tmp_path / "model", kind).eval()
    size = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    quantise_checkpoint(tmp_path / "model")
    assert sum(f.stat().st_size for f in (tmp_path / "model").glob("*.safetensors")) < 0.75 * size
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        ours, theirs = model(ids).logits.float(), before(ids).logits.float()
    assert 0 < (ours - theirs).abs().mean() < 0.4 * theirs.abs().mean()
    weights, full = model.state_dict(), before.state_dict()
    changed = {name for name, w in full.items() if not torch.equal(weights[name].to(w.dtype), w)}
    assert changed == {n for n in full if "_proj" in n}
    for name in changed:
        error = (weights[name].float() - full[name].float()).norm() / full[name].float().norm()
        assert error < 0.15, name


def test_what_the_format_does_not_hold_is_refused(tmp_path):
    with pytest.raises(ModelError, match="GPT2LMHeadModel holds its weights transposed"):
        quantise_checkpoint(save_student(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(ModelError, match="24 to 64 are not all divisible by one of 128"):
        quantise_checkpoint(save_student(tmp_path / "narrow"))


@pytest.mark.vllm
@pytest.mark.slow
def test_the_gate_measures_the_quantised_model_in_vllm_too(tmp_path):
    pytest.importorskip("vllm")
    save(tmp_path / "base", "dense")
    rows = write_rows(tmp_path / "rows.jsonl", 32)
    train(
        [
            f"--train_file={rows}", f"--model_name={tmp_path / 'base'}",
            f"--output_dir={tmp_path / 'run'}", "--report_to=none", "--learning_rate=0.02",
            "--num_train_epochs=4", "--eval_file=none",
        ]
    )  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "scripts/export_model.py", f"--model_path={tmp_path / 'run'}",
            f"--rows_file={rows}", f"--output_dir={tmp_path / 'exported'}", "--quantise=w4a16",
            "--serve=vllm", "--num_inputs=8",
        ],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "merged and quantised give the same answer to" in done.stdout
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "4-bit integers with one scale per group" in card
    assert "| merged | quantised | agree |" in card
    assert "| quantised | quantised, served by vLLM | agree |" in card
