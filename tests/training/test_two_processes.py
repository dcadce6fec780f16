"""Two processes on the CPU give the loss of one at the same effective batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training.tiny_student import write_rows

ROOT = Path(__file__).parents[2]


def run(train_file, student, output_dir, *more, processes):
    arguments = [
        f"--train_file={train_file}", f"--model_name={student}", f"--output_dir={output_dir}",
        "--report_to=none", "--gradient_checkpointing=false", "--save_strategy=no",
        "--train_sampling_strategy=sequential", "--eval_file=none", "--learning_rate=0.005",
        "--num_train_epochs=2", *more,
    ]  # fmt: skip
    variables = {"NUM_PROCESSES": str(processes), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "train_trl.sh", *arguments],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    history = json.loads((output_dir / "log_history.json").read_text())
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, train_file, student):
    write_rows(train_file, 48)
    one = run(train_file, student, tmp_path / "one", processes=1)
    two = run(
        train_file, student, tmp_path / "two", "--gradient_accumulation_steps=2", processes=2
    )  # fmt: skip
    assert len(two) == len(one) == 6
    assert two == pytest.approx(one, abs=1e-4)
