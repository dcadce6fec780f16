"""Training on a base in 4 bits, as a user runs it, and what becomes of the adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training.tiny_student import save_student, write_rows
from transformers import AutoModelForCausalLM

from prompt_distillation.cli.train import main
from prompt_distillation.errors import ConfigError

pytest.importorskip("bitsandbytes")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def train_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "rows.heldout.jsonl", 12)
    return write_rows(folder / "rows.jsonl", 64)


def flags(train_file, student, output_dir, *more):
    return [
        f"--train_file={train_file}", f"--model_name={student}", f"--output_dir={output_dir}",
        "--report_to=none", "--learning_rate=0.01", "--num_train_epochs=2", *more,
    ]  # fmt: skip


def history(output_dir, key="loss"):
    entries = json.loads((output_dir / "log_history.json").read_text())
    return [entry[key] for entry in entries if key in entry]


@pytest.fixture(scope="module")
def run(train_file, student, tmp_path_factory):
    """A finished run on a 4-bit base: the default gradient checkpointing, held-out answers."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = ("--load_in_4bit", "--use_bnb_nested_quant", "--save_steps=2")
    assert main(flags(train_file, student, folder, *options, "--save_total_limit=none")) is None
    return folder


def test_the_run_learns_and_says_what_its_base_was(run):
    assert history(run)[-1] < 0.5 * history(run)[0]
    assert history(run, "eval_loss")[-1] < history(run, "eval_loss")[0]
    assert len(history(run, "eval_accuracy")) == len(history(run, "eval_loss"))
    config = json.loads((run / "training_manifest.json").read_text())["config"]
    four_bit = {key: config[key] for key in config if "4bit" in key or "bnb" in key}
    assert four_bit == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": True,
        "bnb_4bit_experts": True,
    }


def test_its_adapter_is_the_same_files_and_works_on_the_full_base(
    run, train_file, student, tmp_path
):
    main(flags(train_file, student, tmp_path / "full", "--max_steps=1", "--eval_file=none"))
    ours = load_file(run / "adapter_model.safetensors")
    plain = load_file(tmp_path / "full" / "adapter_model.safetensors")
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in plain.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()} == shapes
    configs = [
        json.loads((f / "adapter_config.json").read_text()) for f in (run, tmp_path / "full")
    ]
    names = [sorted(config.pop("target_modules")) for config in configs]
    assert names[0] == names[1]
    assert configs[0] == configs[1]
    base = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(run)).eval()
    ids = torch.arange(8)[None]
    before = adapted(ids).logits
    merged = adapted.merge_and_unload()
    assert torch.allclose(merged(ids).logits, before, atol=1e-4)


def test_a_run_that_stopped_goes_on_with_the_same_curve(run, train_file, student, tmp_path):
    options = ("--load_in_4bit", "--use_bnb_nested_quant", "--save_steps=2")
    stopped = tmp_path / "stopped"
    asked = flags(train_file, student, stopped, *options, "--save_total_limit=none")
    main([*asked, f"--resume_from_checkpoint={run / 'checkpoint-4'}"])
    assert history(stopped) == pytest.approx(history(run), abs=1e-6)


def test_either_way_of_the_expert_adapters_gives_the_same_losses(train_file, student, tmp_path):
    curves = []
    for way in ("activations", "folded"):
        options = ("--load_in_4bit", f"--expert_lora={way}", "--eval_file=none", "--max_steps=4")
        main(flags(train_file, student, tmp_path / way, *options))
        curves.append(history(tmp_path / way))
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


def test_the_card_of_the_export_says_what_the_base_was(run, train_file, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "scripts/export_model.py", f"--model_path={run}", "--serve=none",
            f"--rows_file={train_file.with_suffix('.heldout.jsonl')}",
            f"--output_dir={tmp_path / 'exported'}",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "exported" / "README.md").read_text()
    assert (
        "| base model while training | 4 bits (nf4, scales in 8 bits), linear layers and experts |"
        in card
    )


def test_what_does_not_go_with_4_bits(train_file, student, tmp_path, monkeypatch):
    asked = flags(train_file, student, tmp_path / "run", "--load_in_4bit")
    with pytest.raises(ConfigError, match="freezes the base and trains an adapter"):
        main([*asked, "--use_lora=false"])
    with pytest.raises(ConfigError, match=r"--bnb_4bit_quant_type is 'int4'.*nf4"):
        main([*asked, "--bnb_4bit_quant_type=int4"])
    with pytest.raises(ConfigError, match="remove one of the two"):
        # A flag with a space cannot follow a bare one.
        main(["--model_init_kwargs={quantization_config: {}}", *asked])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        main(asked)


@pytest.mark.slow
def test_two_processes_train_what_one_does(train_file, student, tmp_path):
    def curve(folder, processes, *more):
        options = ("--load_in_4bit", "--eval_file=none", "--gradient_checkpointing=false")
        asked = flags(train_file, student, folder, *options, "--save_strategy=no", *more)
        variables = {
            "NUM_PROCESSES": str(processes),
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "train_trl.sh", *asked, "--train_sampling_strategy=sequential"],
            cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return history(folder)

    one = curve(tmp_path / "one", 1)
    two = curve(tmp_path / "two", 2, "--gradient_accumulation_steps=2")
    assert two == pytest.approx(one, abs=1e-4)
