"""scripts/export_model.py as a user runs it: merge, gate, card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.tiny_student import build_student, write_rows
from transformers import AutoModelForCausalLM

from prompt_distillation.cli.train import main as train
from prompt_distillation.training.export import ExportConfig, _needs_gpu

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


@pytest.mark.vllm
@pytest.mark.slow
def test_the_merged_model_says_the_same_in_vllm(adapter, tmp_path):
    pytest.importorskip("vllm")
    done = export(adapter, tmp_path / "exported", serve="vllm")
    assert done.returncode == 0, done.stderr
    assert "FAILS" not in done.stdout
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| merged | merged, served by vLLM | agree |" in card
