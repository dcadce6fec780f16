"""`train --method on_policy` as a user runs it, on tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training.killed_training import train_until_killed
from training.tiny_student import LABELS, build_student, build_tokenizer, save_student, write_rows

from prompt_distillation.cli.train import main
from prompt_distillation.errors import ConfigError, DivergedError, InputError, ModelError
from prompt_distillation.training.methods.on_policy_trainer import OnPolicyTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    build_student("qwen3", len(build_tokenizer()), seed=7).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def train_file(tmp_path):
    """A dataset as create_data.py leaves it: rows, held-out rows, records, manifest, task."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "prompt.md").write_text("Which language?\nFinal Answer: en")
    (tmp_path / "task" / "task.yaml").write_text(
        f"name: tiny\nkind: classification\nprompt_file: prompt.md\nlabels: {list(LABELS)}\n"
        "answer_pattern: 'Final Answer:\\s*(\\w+)'\n"
    )
    write_rows(tmp_path / "rows.heldout.jsonl", 8)
    rows = write_rows(tmp_path / "rows.jsonl", 32)
    with (tmp_path / "rows.records.jsonl").open("w") as records:
        for number, line in enumerate(rows.read_text().splitlines()):
            question, answer = (turn["content"] for turn in json.loads(line)["messages"])
            records.write(json.dumps(record(number, question, answer)) + "\n")
    made = {"task": {"path": str(tmp_path / "task")}}
    (tmp_path / "rows.manifest.json").write_text(json.dumps(made))
    return rows


def record(number, text, answer):
    output = {"answer": answer, "text": f"A word.\n</think>\n\nFinal Answer: {answer}"}
    return {
        "index": number, "text": text, "history": [], "group": text, "gold": None,
        "held_out": False, "answer": answer, "reject_reason": None, "teacher_answer": answer,
        "reasoning": "A word.", "votes": {answer: 1}, "finish_reason": "stop",
        "prompt_tokens": 1, "completion_tokens": 1, "seconds": 0.1, "outputs": [output],
    }  # fmt: skip


def flags(train_file, student, output_dir, *more):
    return [
        f"--train_file={train_file}", f"--model_name={student}", f"--output_dir={output_dir}",
        "--method=on_policy", "--report_to=none", "--max_completion_length=3", *more,
    ]  # fmt: skip


def losses(output_dir):
    entries = json.loads((output_dir / "log_history.json").read_text())
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def test_a_run_after_sft_moves_its_adapter_and_says_who_the_teacher_was(
    tmp_path, train_file, student, teacher, capsys
):
    sft, run = tmp_path / "sft", tmp_path / "run"
    main([*flags(train_file, student, sft, "--max_steps=1")[:3], "--report_to=none"])
    capsys.readouterr()
    main(
        flags(
            train_file, student, run, f"--adapter_path={sft}", f"--teacher_model={teacher}",
            "--max_steps=2", "--beta=0.5", "--top_p=0.9",
        )
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "2 steps" in printed
    assert "rows/s" in printed
    before = load_file(sft / "adapter_model.safetensors")
    after = load_file(run / "adapter_model.safetensors")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert after.keys() == before.keys()
    assert all(0 < change < 0.01 for change in moved.values())
    manifest = json.loads((run / "training_manifest.json").read_text())
    assert manifest["method"]["name"] == "on_policy"
    assert manifest["method"]["teacher"] == str(teacher)
    assert manifest["method"]["rows"] == 32
    assert (manifest["sft_config"]["beta"], manifest["sft_config"]["top_p"]) == (0.5, 0.9)
    assert manifest["result"]["held_out_answers"] == 8
    assert (run / "plots").is_dir()


def test_a_killed_run_goes_on_with_the_same_curve(tmp_path, train_file, student):
    # The base with the adapter off; two rows a pass, two passes a step, and several epochs.
    options = (
        "--per_device_train_batch_size=4", "--gradient_accumulation_steps=2",
        "--num_train_epochs=2", "--save_steps=3", "--learning_rate=0.01",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(flags(train_file, student, whole, *options))
    train_until_killed(flags(train_file, student, killed, *options), step=5)
    assert not (killed / "training_manifest.json").exists()
    assert (killed / "checkpoint-3").is_dir()
    main(flags(train_file, student, killed, *options))
    assert losses(killed) == pytest.approx(losses(whole), abs=1e-5)
    ours = load_file(killed / "adapter_model.safetensors")
    for name, tensor in load_file(whole / "adapter_model.safetensors").items():
        assert (ours[name] - tensor).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--teacher_max_length=40"], InputError, r"the teacher would read .* its limit is 40"),
        (["--use_lora=false"], ConfigError, "without an adapter needs --teacher_model"),
        (["--teacher_model=./nowhere"], ModelError, "there is no such folder"),
        (["--teacher_server_url=http://localhost:9/v1"], ConfigError, "needs --teacher_model"),
        (["--adapter_path=./nowhere"], ModelError, r"adapter_config\.json is not there"),
        (["--per_device_train_batch_size=64"], ConfigError, "32 rows are fewer than the 256"),
        (["--use_vllm=true"], ConfigError, "on a GPU only"),
        (["--beta=2"], ConfigError, "beta must be in"),
        (["--teacher_model_name_or_path=x"], ConfigError, "use --teacher_model"),
        (["--packing"], ConfigError, "unknown flag or key 'packing'"),
        (["--assistant_turns=all"], ConfigError, "leave out --assistant_turns"),
        (["--token_clip=0"], ConfigError, "--token_clip is 0"),
    ],
)
def test_what_is_wrong_is_said_before_training(tmp_path, train_file, student, more, error, message):
    with pytest.raises(error, match=message):
        main([*flags(train_file, student, tmp_path / "run"), *more])
    assert not list(tmp_path.glob("run/adapter*"))


def test_a_teacher_of_another_vocabulary_is_an_error(tmp_path, train_file, student):
    tokenizer = build_tokenizer()
    names = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    one, other = names[20], names[21]
    vocabulary = state["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    folder = save_student(tmp_path / "teacher")
    (folder / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="its vocabulary is not the student's"):
        main(flags(train_file, student, tmp_path / "run", f"--teacher_model={folder}"))


def test_without_records_the_command_that_writes_them_is_named(tmp_path, train_file, student):
    (tmp_path / "rows.records.jsonl").unlink()
    done = subprocess.run(
        [sys.executable, ROOT / "train_sft_trl.py", *flags(train_file, student, tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "rows.records.jsonl" in done.stderr
    assert "create_data.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_rows(
    tmp_path, train_file, student, monkeypatch
):
    loss = OnPolicyTrainer._compute_loss

    def broken(self, *arguments):
        found, *more = loss(self, *arguments)
        return found * float("nan"), *more

    monkeypatch.setattr(OnPolicyTrainer, "_compute_loss", broken)
    with pytest.raises(DivergedError, match=r"its rows: .*rows\.jsonl, line \d+"):
        main(flags(train_file, student, tmp_path / "run", "--max_steps=2"))
