"""What the trackers record, read back from their own files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import wandb_file

from prompt_distillation.training.tracking import OTHER

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"
TRAINED = (
    "loss", "learning_rate", "grad_norm", "tokens_per_second", "rows_per_second", "peak_memory_gib",
)  # fmt: skip


def run(train_file, student, output_dir, *more, **variables):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("WANDB_")
    } | {"HOME": str(output_dir.parent), "NETRC": str(output_dir.parent / "netrc")}
    done = subprocess.run(
        [
            sys.executable, "train_sft_trl.py", f"--train_file={train_file}",
            f"--model_name={student}", f"--output_dir={output_dir}", "--eval_steps=2",
            "--gradient_checkpointing=false", "--held_out_answers=12", "--max_steps=3", *more,
        ],
        cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"} | variables, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(output_dir):
    return [file for file in output_dir.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_wandb_holds_the_dashboard_and_no_key(tmp_path, train_file, student):
    output_dir = tmp_path / "run"
    run(
        train_file, student, output_dir, "--run_name=first",
        WANDB_API_KEY=KEY, WANDB_MODE="offline",
    )  # fmt: skip
    (recorded,) = output_dir.glob("wandb/offline-run-*/run-*.wandb")
    logged = wandb_file.history(recorded)
    trained = [entry for entry in logged if "train/loss" in entry]
    assert [entry["train/global_step"] for entry in trained] == [1, 2, 3]
    for entry in trained:
        assert {f"train/{name}" for name in TRAINED} <= entry.keys()
    looks = [entry for entry in logged if "eval/loss" in entry]
    assert [entry["train/global_step"] for entry in looks] == [0, 2, 3]
    assert all("eval/accuracy" in entry for entry in looks)
    # No figure without the device's peak, and a word about it.
    assert not [entry for entry in logged if "train/model_flops_utilisation" in entry]
    reason = wandb_file.summary(recorded)["model_flops_utilisation_missing"]
    assert reason == "the peak FLOP/s of cpu is not known"

    key = "held_out_confusion_table.path"
    (path,) = [entry[key] for entry in logged if key in entry]
    table = json.loads((recorded.parent / "files" / path).read_text())
    # Answers that are right for no row share a label.
    assert {row[0] for row in table["data"]} == {"de", "en", "es", "fr", OTHER}
    assert {row[1] for row in table["data"]} == {"de", "en", "es", "fr", OTHER}
    assert sum(row[2] for row in table["data"]) == 12
    assert not [file for file in held(output_dir) if KEY.encode() in file.read_bytes()]


@pytest.mark.slow
def test_tensorboard_holds_the_curves(tmp_path, train_file, student):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output_dir = tmp_path / "run"
    printed = run(train_file, student, output_dir, "--report_to=tensorboard")
    assert f"tensorboard --logdir {output_dir}/runs\n" in printed
    assert list((output_dir / "runs").rglob("events.out.tfevents.*"))
    (events,) = output_dir.rglob("events.out.tfevents.*")
    recorded = EventAccumulator(str(events)).Reload()
    for name in TRAINED:
        assert [event.step for event in recorded.Scalars(f"train/{name}")] == [1, 2, 3], name
    assert [event.step for event in recorded.Scalars("eval/loss")] == [0, 2, 3]
    assert [event.step for event in recorded.Scalars("eval/accuracy")] == [0, 2, 3]
