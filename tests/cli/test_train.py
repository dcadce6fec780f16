"""The train command as a user runs it: real TRL on a tiny student, and what may go wrong."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.families import build_family
from training.tiny_student import build_tokenizer, save_student, write_rows
from trl import SFTConfig

from prompt_distillation.cli.train import main, next_command
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.errors import (
    ConfigError,
    DivergedError,
    InputError,
    ModelError,
    OutputExistsError,
    OutputWriteError,
)
from prompt_distillation.training.loading import held_out_file
from prompt_distillation.training.methods.sft import AnswerTrainer
from prompt_distillation.training.methods.sft_options import (
    own_names,
    refuse_misspelt,
    sft_values,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def train_file(tmp_path):
    write_rows(tmp_path / "rows.heldout.jsonl", 12)
    return write_rows(tmp_path / "rows.jsonl", 64)


def flags(train_file, student, output_dir, *more):
    return [
        f"--train_file={train_file}",
        f"--model_name={student}",
        f"--output_dir={output_dir}",
        "--report_to=none",
        "--gradient_checkpointing=false",
        *more,
    ]


def history(output_dir):
    return json.loads((output_dir / "log_history.json").read_text())


def losses(output_dir):
    return {entry["step"]: entry["loss"] for entry in history(output_dir) if "loss" in entry}


def test_a_run_leaves_adapter_tokenizer_manifest_and_losses(tmp_path, train_file, student, capsys):
    output_dir = tmp_path / "run"
    assert main(flags(train_file, student, output_dir, "--learning_rate=0.01")) is None
    printed = capsys.readouterr().out
    assert "mlp.experts.gate_up_proj" in printed
    assert "[en][<|im_end|>]" in printed
    assert "64 rows" in printed
    assert "12 held-out rows" in printed
    assert re.search(r"4 steps in .* rows/s without .* s of evaluation\)", printed)
    assert "next: python evaluate.py" in printed
    assert "--task" not in printed

    adapter = load_file(output_dir / "adapter_model.safetensors")
    assert any("experts" in name and tensor.abs().max() > 0 for name, tensor in adapter.items())
    assert (output_dir / "tokenizer.json").is_file()
    manifest = json.loads((output_dir / "training_manifest.json").read_text())
    assert manifest["base_model"]["name"] == str(student)
    assert manifest["config"]["lora_rank"] == 32
    assert manifest["counts"]["rows"] == 64
    assert 0 < manifest["result"]["evaluation_seconds"] < manifest["result"]["seconds"]
    assert manifest["counts"]["trained_tokens"] == 128
    assert manifest["micro_batch"] == {"rows": 16, "accumulation_steps": 1, "processes": 1}
    assert manifest["seed"] == 0
    before, after = manifest["result"]["held_out_loss"]
    assert after < before

    assert len(list((output_dir / "plots").glob("*.png"))) == 7
    with (output_dir / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
    assert float(rows[0]["eval_loss"]) == pytest.approx(before)
    assert float(rows[-1]["loss"]) == pytest.approx(losses(output_dir)[4])

    with pytest.raises(OutputExistsError, match="already holds a finished run; pass --overwrite"):
        main(flags(train_file, student, output_dir))
    kept = (output_dir / "adapter_model.safetensors").stat().st_mtime_ns
    main(flags(train_file, student, output_dir, "--overwrite", "--max_steps=1"))
    assert (output_dir / "adapter_model.safetensors").stat().st_mtime_ns != kept
    assert list(losses(output_dir)) == [1]


def test_a_full_fine_tune_saves_a_whole_model(tmp_path, train_file, student, capsys):
    output_dir = tmp_path / "run"
    main(flags(train_file, student, output_dir, "--use_lora=false", "--max_steps=2"))
    assert (output_dir / "model.safetensors").is_file()
    assert not (output_dir / "adapter_config.json").exists()
    assert "100.00%" in capsys.readouterr().out


def test_a_run_that_stopped_goes_on_with_the_same_curve(tmp_path, train_file, student):
    options = ("--num_train_epochs=3", "--save_steps=2", "--learning_rate=0.005")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    main(flags(train_file, student, whole, *options))
    main(flags(train_file, student, stopped, *options, "--save_total_limit=none"))
    # What a kill after step 8 leaves: checkpoints, and no manifest.
    for name in ("training_manifest.json", "adapter_config.json", "adapter_model.safetensors"):
        (stopped / name).unlink()
    for step in (10, 12):
        for file in (stopped / f"checkpoint-{step}").iterdir():
            file.unlink()
    main(flags(train_file, student, stopped, *options, "--save_total_limit=none"))
    assert losses(stopped) == pytest.approx(losses(whole), abs=1e-6)
    ours = load_file(stopped / "adapter_model.safetensors")
    for name, tensor in load_file(whole / "adapter_model.safetensors").items():
        assert (ours[name] - tensor).abs().max() < 1e-6, name


def test_checkpoints_of_another_run_are_not_gone_on_with(tmp_path, train_file, student):
    output_dir = tmp_path / "run"
    main(flags(train_file, student, output_dir, "--max_steps=2", "--save_steps=1"))
    for name in ("training_manifest.json", "adapter_config.json"):
        (output_dir / name).unlink()
    with pytest.raises(OutputExistsError, match=r"learning_rate was 0\.0002, is 0\.1"):
        main(
            flags(
                train_file, student, output_dir, "--max_steps=2", "--save_steps=1",
                "--learning_rate=0.1",
            )
        )  # fmt: skip


def test_without_a_login_wandb_records_offline_and_says_how_to_sync(tmp_path, train_file, student):
    output_dir = tmp_path / "run"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("WANDB_")
    } | {"NETRC": str(tmp_path / "netrc"), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    arguments = [
        flag for flag in flags(train_file, student, output_dir) if flag != "--report_to=none"
    ]
    done = subprocess.run(
        [sys.executable, "train_sft_trl.py", *arguments, "--max_steps=2", "--run_name=first"],
        cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"wandb sync {output_dir}/wandb/offline-run-" in done.stdout
    (recorded,) = output_dir.glob("wandb/offline-run-*/run-*.wandb")
    assert recorded.stat().st_size > 0


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--learnign_rate=1"], ConfigError, "unknown flag or key 'learnign_rate'.*learning_rate"),
        (["--optimm=adamw_torch"], ConfigError, "did you mean 'optim'"),
        (["--optim=adamx"], ConfigError, "--optim is 'adamx'"),
        (["--eval_steps=often"], ConfigError, "--eval_steps is 'often'; SFTConfig takes float"),
        (["--completion_only_loss=false"], ConfigError, "the loss is on the answer only"),
        (["--use_cpu=false"], ConfigError, "there is no GPU here"),
        (["--lora_targets=nothing"], ConfigError, "no layer is called 'nothing'"),
        (
            ["--eval_file=none", "--eval_strategy=steps"],
            ConfigError,
            "TRL refuses the options.*eval_dataset",
        ),
        (["--resume_from_checkpoint=nowhere"], ConfigError, "no checkpoint there"),
        (["--model_name=./nowhere"], ModelError, "there is no such folder"),
        (["--max_length=8"], InputError, "every row is longer"),
        (["--lora_rank=33"], ConfigError, "--lora_rank is 33, and no adapted layer .* than 32"),
        (["--lora_rank=0"], ConfigError, "--lora_rank is 0; it must be between 1 and 4096"),
        (["--warmup_ratio=1.5"], ConfigError, "--warmup_ratio is 1.5"),
        (["--output_dir=/dev/null/run"], OutputWriteError, "cannot write"),
    ],
)
def test_what_is_wrong_is_said_before_training(tmp_path, train_file, student, more, error, message):
    with pytest.raises(error, match=message):
        main([*flags(train_file, student, tmp_path / "run"), *more])
    assert not list(tmp_path.glob("run/adapter*"))


@pytest.mark.parametrize(
    ("flag", "package"),
    [
        ("--optim=adamw_8bit", "bitsandbytes"),
        ("--optim=paged_adamw_32bit", "bitsandbytes"),
        ("--report_to=tensorboard", "tensorboard"),
    ],
)
def test_a_package_that_is_not_there_is_named_before_the_model_is_loaded(
    tmp_path, train_file, student, flag, package
):
    # As on a machine without it: a package without a place is not found.
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        f"u.find_spec = lambda name, *more: None if name == {package!r} else find(name, *more)\n"
        "from prompt_distillation.cli.main import main\n"
        "main(['train', *sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(train_file, student, tmp_path / "run", flag)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert package in done.stderr
    assert "pip install" in done.stderr
    assert "Loading weights" not in done.stderr


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "paged_adamw_8bit"])
def test_optimizers_of_bitsandbytes_train_on_a_cpu(tmp_path, train_file, name, caplog):
    output_dir, student = tmp_path / "run", save_student(tmp_path / "wide", hidden=160)
    more = (
        f"--optim={name}", "--lora_expert_rank=4", "--learning_rate=0.01",
        "--num_train_epochs=2", "--eval_file=none",
    )  # fmt: skip
    with caplog.at_level("INFO"):
        main(flags(train_file, student, output_dir, *more))
    curve = list(losses(output_dir).values())
    assert curve[-1] < curve[0]
    assert ("pages nothing on a CPU" in caplog.text) == ("paged" in name)
    saved = torch.load(output_dir / "checkpoint-8" / "optimizer.pt", weights_only=True)
    moments = [held["__bnb_optimizer_quant_state__"] for held in saved["state"].values()]
    # Tensors below 4,096 numbers keep 32 bits.
    assert {held["state1"].dtype for held in moments} == {torch.uint8, torch.float32}


def test_an_adapter_is_not_a_student(tmp_path, train_file):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter; expected a full model"):
        main(flags(train_file, tmp_path / "adapter", tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_file", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["--config", "nowhere.yaml"], "no such --config file"),
        (["--use_lora", "maybe"], "--use_lora is 'maybe'"),
    ],
)
def test_as_a_command_an_error_is_one_line_and_code_2(arguments, message):
    done = subprocess.run(
        [sys.executable, "train_sft_trl.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_activations_are_recomputed_where_they_do_not_fit_and_nothing_else_changes(
    tmp_path, train_file, student, capsys, monkeypatch
):
    from prompt_distillation.training.memory import plan

    trained = []
    for name, memory in (("kept", 80.0), ("recomputed", 1e-3)):
        monkeypatch.setattr(plan, "device_memory_gib", lambda on_gpu, memory=memory: memory)
        asked = ("--gradient_checkpointing=none", "--eval_file=none", "--learning_rate=0.01")
        main(flags(train_file, student, tmp_path / name, *asked))
        assert f"activations {name}" in " ".join(capsys.readouterr().out.split())
        trained.append(losses(tmp_path / name))
    assert trained[0] == pytest.approx(trained[1], rel=1e-5)


def test_a_full_disk_is_one_line(tmp_path, train_file, student, monkeypatch):
    from prompt_distillation.training.output_folder import RunFolder

    def full(*_unused, **_unused_too):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save_model", full)
    with pytest.raises(OutputWriteError, match="No space left on device; free some space"):
        main(flags(train_file, student, tmp_path / "run", "--max_steps=1"))


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_what_was_good(
    tmp_path, train_file, student, monkeypatch
):
    plain = AnswerTrainer.compute_loss

    def spoilt(trainer, *arguments, **options):
        loss = plain(trainer, *arguments, **options)
        is_third = trainer.model.training and trainer.state.global_step == 2
        return loss * float("nan") if is_third else loss

    monkeypatch.setattr(AnswerTrainer, "compute_loss", spoilt)
    output_dir = tmp_path / "run"
    asked = flags(train_file, student, output_dir, "--save_steps=1", "--eval_file=none")
    rows = r"rows: .*rows\.jsonl, line \d+, .*rows\.jsonl, line \d+"
    with pytest.raises(DivergedError, match=f"loss of step 3 is nan; its {rows}.*--learning_rate"):
        main([*asked, "--train_sampling_strategy=sequential"])
    assert {path.name for path in output_dir.glob("checkpoint-*")} == {
        "checkpoint-1", "checkpoint-2",
    }  # fmt: skip
    assert not (output_dir / "training_manifest.json").exists()
    assert "nan" not in (output_dir / "loss.csv").read_text()
    monkeypatch.setattr(AnswerTrainer, "compute_loss", plain)
    changed = [*asked, "--learning_rate=1e-5"]
    with pytest.raises(OutputExistsError, match="of another run"):
        main(changed)
    main([*changed, f"--resume_from_checkpoint={output_dir / 'checkpoint-2'}"])
    assert list(losses(output_dir)) == [1, 2, 3, 4]


def test_a_student_that_would_mix_rows_gets_them_padded(tmp_path, train_file, caplog):
    student = tmp_path / "student"
    tokenizer = build_tokenizer()
    build_family("gpt_oss", vocab_size=len(tokenizer)).save_pretrained(student)
    tokenizer.save_pretrained(student)
    more = ("--max_steps=1", "--lora_rank=8", "--expert_lora=folded", "--eval_file=none")
    main(flags(train_file, student, tmp_path / "run", *more))
    assert "GptOssForCausalLM does not keep rows apart" in caplog.text
    manifest = json.loads((tmp_path / "run" / "training_manifest.json").read_text())
    assert manifest["micro_batch"]["rows"] == 4
    with pytest.raises(ConfigError, match="--packing: GptOssForCausalLM does not keep rows apart"):
        main(flags(train_file, student, tmp_path / "other", *more, "--packing=true"))


def test_the_reference_hyperparameters_reach_trl():
    values = sft_values(TrainConfig.of(), {}, has_held_out=True)
    assert values["learning_rate"] == 2e-4
    assert values["warmup_steps"] == 0.03
    assert values["lr_scheduler_type"] == "cosine_with_min_lr"
    assert values["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] == 16
    assert sft_values(TrainConfig.of(), {"optim": "adamw_8bit"}, has_held_out=False)["optim"]


@pytest.mark.parametrize(
    ("task", "inputs", "more"),
    [
        ("tasks/language", "./example-data/multilingual.txt", ""),
        ("tasks/my own", "mail.jsonl", " --task 'tasks/my own' --test_file mail.jsonl"),
    ],
)
def test_what_comes_next_is_on_the_same_task(tmp_path, task, inputs, more):
    manifest = {"task": {"path": task}, "input_file": inputs}
    (tmp_path / "rows.manifest.json").write_text(json.dumps(manifest))
    config = TrainConfig.of(train_file=tmp_path / "rows.jsonl", output_dir=Path("models/m"))
    assert next_command(config) == (
        f"python evaluate.py --model_path models/m --train_data_file {tmp_path}/rows.jsonl{more}"
    )


def test_a_misspelt_flag_is_named_before_trl_loads():
    code = (
        "import sys; from prompt_distillation.cli.train import main\n"
        "try: main(['--learnign_rate=1'])\n"
        "except Exception as error: print(error, sorted({'torch', 'trl'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "unknown flag or key 'learnign_rate'; did you mean 'learning_rate'? []\n"
    )


def test_no_field_of_trl_is_taken_for_a_misspelt_flag():
    theirs = {field.name for field in dataclasses.fields(SFTConfig)} - own_names()
    refuse_misspelt(dict.fromkeys(theirs, ""))


def test_held_out_rows_stand_beside_the_training_file(tmp_path, train_file):
    config = TrainConfig.of(train_file=train_file)
    assert held_out_file(config) == tmp_path / "rows.heldout.jsonl"
    assert held_out_file(TrainConfig.of(train_file=train_file, eval_file="none")) is None
    (tmp_path / "rows.heldout.jsonl").unlink()
    assert held_out_file(config) is None


def test_held_out_accuracy_keeps_the_best_checkpoint(tmp_path, train_file, student, capsys):
    output_dir = tmp_path / "run"
    options = ("--metric_for_best_model=eval_accuracy", "--early_stopping_patience=2")
    more = ("--num_train_epochs=6", "--learning_rate=1e-9", "--held_out_answers=12")
    main(flags(train_file, student, output_dir, *options, *more))
    accuracies = [
        entry["eval_accuracy"] for entry in history(output_dir) if "eval_accuracy" in entry
    ]
    assert set(accuracies) == {0.0}
    # Nothing improves at this learning rate: training stops long before its 24 steps.
    assert max(losses(output_dir)) < 12
    assert "held-out accuracy by generation: 0.0% before" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="need held-out rows"):
        main(flags(train_file, student, tmp_path / "other", *options, "--eval_file=none"))


def test_a_dry_run_counts_and_proposes_and_writes_nothing(tmp_path, train_file, student, capsys):
    output_dir = tmp_path / "run"
    asked = flags(train_file, student, output_dir, "--dry_run")
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "64 rows" in printed
    assert "4 optimizer steps of 16 rows x 1 pass(es)" in printed
    assert "fits a device with 80 GiB" in printed
    assert not output_dir.exists()


def test_a_plan_needs_neither_weights_nor_bitsandbytes(tmp_path, train_file, student, monkeypatch):
    shapes = tmp_path / "shapes"
    shutil.copytree(student, shapes, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what cannot be imported
    asked = flags(train_file, shapes, tmp_path / "run", "--load_in_4bit", "--optim=adamw_8bit")
    assert main([*asked, "--dry_run"]) == 0
    with pytest.raises(ModelError, match="without any weights"):
        main(asked)
