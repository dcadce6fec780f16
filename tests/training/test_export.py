"""scripts/export_model.py as a user runs it: merge, gate, card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.families import build_family
from training.tiny_student import build_student, build_tokenizer, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_distillation.cli.train import main as train
from prompt_distillation.training.export import (
    ExportConfig,
    _needs_gpu,
    write_older_keys,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def adapter(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    write_rows(folder / "rows.heldout.jsonl", 8)
    rows = write_rows(folder / "rows.jsonl", 32)
    train(
        [
            f"--train_file={rows}", f"--model_name={student}", f"--output_dir={folder / 'run'}",
            "--report_to=none", "--gradient_checkpointing=false", "--learning_rate=0.02",
            "--num_train_epochs=4", "--held_out_answers=0",
        ]
    )  # fmt: skip
    return folder


def export(adapter, output_dir, *more, serve="none"):
    return subprocess.run(
        [
            sys.executable, "scripts/export_model.py", f"--model_path={adapter / 'run'}",
            f"--rows_file={adapter / 'rows.heldout.jsonl'}", f"--output_dir={output_dir}",
            f"--serve={serve}", *more,
        ],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_adapter_becomes_a_whole_model_with_a_card(adapter, tmp_path):
    done = export(adapter, tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    assert "base + adapter" in done.stdout
    AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| lora_rank | 32 |" in card
    assert "| base + adapter | merged | agree |" in card
    again = export(adapter, tmp_path / "exported")
    assert again.returncode == 2
    assert "already exists; pass --overwrite" in again.stderr


@pytest.mark.parametrize("flag", ["rows_file", "evaluation_file"])
def test_a_file_that_is_not_there_is_named_before_merging(adapter, tmp_path, flag):
    done = export(adapter, tmp_path / "exported", f"--{flag}={tmp_path / 'none.json'}")
    assert done.returncode == 2
    assert done.stderr == f"error: --{flag}: no such file: {tmp_path / 'none.json'}\n"
    assert "Loading weights" not in done.stdout


@pytest.mark.parametrize(
    ("kind", "quantise", "amx", "wanted"),
    [
        ("qwen3_moe", "w4a16", False, True),
        ("qwen3_moe", "w4a16", True, False),
        ("qwen3_moe", "none", False, False),
        ("qwen3", "w4a16", False, False),
    ],
)
def test_quantised_experts_are_served_on_a_gpu(kind, quantise, amx, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    build_student(kind, 64).config.save_pretrained(tmp_path)
    assert _needs_gpu(ExportConfig(quantise=quantise), tmp_path) is wanted


def test_the_help_is_plain_text():
    done = subprocess.run(
        [sys.executable, "scripts/export_model.py", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--quantise w4a16" in done.stdout
    assert "``" not in done.stdout
    assert "::" not in done.stdout


def test_an_adapter_without_effect_is_not_exported(adapter, student, tmp_path):
    dead = tmp_path / "run"
    dead.mkdir()
    for name in ("adapter_config.json", "training_manifest.json"):
        (dead / name).write_bytes((adapter / "run" / name).read_bytes())
    tensors = load_file(adapter / "run" / "adapter_model.safetensors")
    zeroed = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in tensors.items()}
    save_file(zeroed, dead / "adapter_model.safetensors", metadata={"format": "pt"})
    rows = (adapter / "rows.heldout.jsonl").read_bytes()
    (tmp_path / "rows.heldout.jsonl").write_bytes(rows)
    done = export(tmp_path, tmp_path / "exported")
    assert done.returncode == 2
    assert "'base' and 'base + adapter' should differ" in done.stderr
    assert not (tmp_path / "exported").exists()
    assert json.loads((dead / "adapter_config.json").read_text())["r"] == 16


YARN = {
    "rope_type": "yarn", "rope_theta": 5e6, "factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
SLIDING = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
OLDER = {
    "qwen3_moe": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
        {"rope_theta": 5e6, "num_experts": 4, "num_local_experts": 4, "torch_dtype": "float32"},
    ),
    "qwen3": (
        {"rope_parameters": YARN},
        {
            "rope_theta": 5e6,
            "rope_scaling": {key: value for key, value in YARN.items() if key != "rope_theta"},
        },
    ),
    "gemma3": (
        {"rope_parameters": SLIDING},
        {
            "rope_theta": 5e5, "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
}  # fmt: skip


def older_checkpoint(family, folder):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    model = build_family(family, vocab_size=len(tokenizer), **OLDER[family][0]).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_older_keys(folder)
    return model, tokenizer


@pytest.mark.parametrize("family", OLDER)
def test_an_export_has_the_settings_that_older_readers_look_for(family, tmp_path):
    model, tokenizer = older_checkpoint(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert OLDER[family][1].items() <= config.items()
    names = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert names["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert names["additional_special_tokens"] == ["<|im_start|>"]
    assert "extra_special_tokens" not in names
    # The release that wrote it reads it as before.
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(3, 90)[None]
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    text = "<|im_start|>user\nWo?<|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == tokenizer.encode(text)


READING = """
import sys, json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
logits = model(input_ids=torch.arange(3, 90)[None]).logits[0, -1].tolist()
print(json.dumps([tokenizer.encode("<|im_start|>user\\nWo?<|im_end|>"), logits]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "TRANSFORMERS4_PYTHON" not in os.environ,
    reason="TRANSFORMERS4_PYTHON names no python of an environment with transformers 4.57",
)
@pytest.mark.parametrize("family", OLDER)
def test_transformers_4_computes_the_same(family, tmp_path):
    model, tokenizer = older_checkpoint(family, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [os.environ["TRANSFORMERS4_PYTHON"], "-c", READING, tmp_path],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids, logits = json.loads(done.stdout.splitlines()[-1])
    assert ids == tokenizer.encode("<|im_start|>user\nWo?<|im_end|>")
    ours = model(torch.arange(3, 90)[None]).logits[0, -1]
    torch.testing.assert_close(torch.tensor(logits), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.vllm
@pytest.mark.slow
def test_the_merged_model_says_the_same_in_vllm(adapter, tmp_path):
    pytest.importorskip("vllm")
    done = export(adapter, tmp_path / "exported", serve="vllm")
    assert done.returncode == 0, done.stderr
    assert "FAILS" not in done.stdout
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| merged | merged, served by vLLM | agree |" in card
