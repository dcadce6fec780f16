"""Two processes on the CPU give the loss of one at the same effective batch."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from training.tiny_student import write_rows

ROOT = Path(__file__).parents[2]
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None


def flags(rows, student, output_dir):
    return [
        f"--train_file={rows / 'rows.jsonl'}", f"--eval_file={rows / 'held-out.jsonl'}",
        f"--model_name={student}", f"--output_dir={output_dir}",
        "--report_to=none", "--gradient_checkpointing=false", "--save_strategy=no",
        "--train_sampling_strategy=sequential", "--learning_rate=0.005", "--num_train_epochs=2",
        "--per_device_eval_batch_size=2", "--held_out_answers=0",
    ]  # fmt: skip


def run(command, **variables):
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def losses(output_dir, name="loss"):
    history = json.loads((output_dir / "log_history.json").read_text())
    return [entry[name] for entry in history if name in entry]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "rows.jsonl", 48)
    write_rows(folder / "held-out.jsonl", 7)  # no multiple of the processes or of a batch
    return folder


@pytest.fixture(scope="module")
def one_process(rows, student, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("one")
    run(["bash", "train_trl.sh", *flags(rows, student, output_dir)], PYTHON=sys.executable)
    assert len(losses(output_dir)) == 6
    return output_dir


def assert_the_same(one, two):
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    held_out = losses(one, "eval_loss")
    assert held_out
    assert losses(two, "eval_loss") == pytest.approx(held_out, abs=1e-4)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (two, one))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        # Adam turns a rounding of a gradient near zero into a step of the learning rate.
        assert (ours[name] - tensor).abs().mean() < 1e-4, name


@pytest.mark.slow
def test_two_processes_train_what_one_does(rows, student, one_process, tmp_path):
    asked = [*flags(rows, student, tmp_path / "two"), "--gradient_accumulation_steps=2"]
    run(["bash", "train_trl.sh", *asked], NUM_PROCESSES="2", PYTHON=sys.executable)
    assert_the_same(one_process, tmp_path / "two")


@pytest.mark.slow
def test_padded_held_out_rows_count_once_however_many_processes_share_them(rows, student, tmp_path):
    looks = []
    for count in ("1", "2"):
        asked = [*flags(rows, student, tmp_path / count), "--max_steps=1", "--learning_rate=0"]
        asked += ["--fill_micro_batch=false"]
        run(["bash", "train_trl.sh", *asked], NUM_PROCESSES=count, PYTHON=sys.executable)
        looks.append(losses(tmp_path / count, "eval_loss"))
    assert looks[1] == pytest.approx(looks[0], abs=1e-5)


@pytest.mark.slow
def test_weights_cut_over_two_processes_train_what_one_does(rows, student, one_process, tmp_path):
    recipe = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text())
    # As `accelerate launch` hands its file to the processes.
    variables = {key.upper(): str(value) for key, value in recipe["fsdp_config"].items()}
    asked = [*flags(rows, student, tmp_path / "cut"), "--gradient_accumulation_steps=2"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = str(Path(__file__).with_name("fsdp_on_cpu.py"))
    run(
        [sys.executable, *launch, script, str(tmp_path), "train_sft_trl.py", *asked],
        ACCELERATE_USE_FSDP="true", **variables,
    )  # fmt: skip
    # Both layers and what is around them, in both processes.
    assert [int((tmp_path / rank).read_text()) > 2 for rank in ("0", "1")] == [True, True]
    assert_the_same(one_process, tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed: pip install deepspeed")
def test_zero3_over_two_processes_trains_what_one_does(rows, student, one_process, tmp_path):
    recipe = yaml.safe_load((ROOT / "recipes/accelerate/zero3.yaml").read_text())
    recipe |= {"mixed_precision": "no", "num_processes": 2, "use_cpu": True}
    config = tmp_path / "zero3-on-cpu.yaml"
    config.write_text(yaml.safe_dump(recipe))
    asked = [*flags(rows, student, tmp_path / "cut"), "--gradient_accumulation_steps=2"]
    launch = ["-m", "accelerate.commands.launch", f"--config_file={config}"]
    run([sys.executable, *launch, "train_sft_trl.py", *asked], DS_ACCELERATOR="cpu")
    assert_the_same(one_process, tmp_path / "cut")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("nowhere.yaml", "no such file: nowhere.yaml"),
        pytest.param(
            "recipes/accelerate/zero3.yaml",
            "needs the package deepspeed",
            marks=pytest.mark.skipif(HAS_DEEPSPEED, reason="DeepSpeed is installed"),
        ),
        ("recipes/accelerate/fsdp2.yaml", "needs GPUs"),
    ],
)
def test_an_accelerate_config_that_cannot_be_used_is_one_line(config, message):
    variables = {"NUM_PROCESSES": "2", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "train_trl.sh", "--dry_run"],
        cwd=ROOT, env=os.environ | {"ACCELERATE_CONFIG": config} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
