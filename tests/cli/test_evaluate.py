"""`evaluate.py` as a user runs it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Truth -> prediction -> count; "" is a completion without an answer.
KNOWN = {
    "ar": {"ar": 141, "ur": 5},
    "de": {"de": 135, "es": 1, "tr": 1},
    "el": {"el": 144, "hi": 3, "ot": 10},
    "hi": {"hi": 171, "ot": 39, "zh": 1, "": 2},
    "ot": {"ot": 169, "de": 1, "en": 4, "hi": 14, "ru": 1, "vi": 1, "zh": 3},
    "zh": {"zh": 143, "ot": 1, "": 1},
}


def evaluate(
    *arguments: str | Path, cwd: Path = ROOT, limit_file_size: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "evaluate.py", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit_file_size,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


TRAINED_ON = (
    '{"messages": [{"role": "user", "content": "other"}, {"role": "assistant", "content": "en"}]}\n'
)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that failed as a command should: one line, code 2, nothing else."""
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


@pytest.fixture
def replay(tmp_path: Path) -> list[str | Path]:
    """Arguments that replay `KNOWN`."""
    rows = [
        (truth, answer)
        for truth, row in KNOWN.items()
        for answer, count in row.items()
        for _ in range(count)
    ]
    (tmp_path / "test.txt").write_text("".join(f"text {i}\n" for i in range(len(rows))))
    (tmp_path / "train.jsonl").write_text(TRAINED_ON)
    (tmp_path / "truth.txt").write_text("".join(f"{truth}\n" for truth, _ in rows))
    (tmp_path / "predictions.txt").write_text("".join(f"{answer}\n" for _, answer in rows))
    return [
        "--test_file", tmp_path / "test.txt", "--ground_truth_file", tmp_path / "truth.txt",
        "--train_data_file", tmp_path / "train.jsonl",
        "--predictions_file", tmp_path / "predictions.txt",
        "--output_file", tmp_path / "result.json", "--split", "all",
    ]  # fmt: skip


def test_known_predictions_give_the_known_matrix_to_the_cell(replay, tmp_path: Path) -> None:
    done = evaluate(*replay)

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    matrix = result["confusion_matrix"]
    for truth in matrix["labels"]:
        for answer in matrix["labels"]:
            wanted = KNOWN.get(truth, {}).get("" if answer == "?" else answer, 0)
            assert matrix["matrix_dict"][truth][answer] == wanted, (truth, answer)
    for truth, row in zip(matrix["labels"], matrix["matrix_2d"], strict=True):
        assert row == list(matrix["matrix_dict"][truth].values())
    summary = result["summary"]
    total, correct = 991, 141 + 135 + 144 + 171 + 169 + 143
    assert (summary["total_samples"], summary["correct"]) == (total, correct)
    assert summary["unparseable"] == 3
    assert summary["accuracy"] == pytest.approx(correct / total)
    assert next(iter(result["per_language_accuracy"])) == "hi"
    lines = done.stdout.splitlines()
    assert "hi |    .   .   .   .   .   . 171  39   .   .   .   .   1   2  |  213" in lines
    assert f"  Correct: {correct}/{total}" in lines
    assert "\x1b[" not in done.stdout


def test_only_the_default_training_data_may_be_missing(replay, tmp_path: Path) -> None:
    mistyped = evaluate(*replay, "--train_data_file", tmp_path / "nope.jsonl")
    assert "no training data at" in one_line(mistyped)

    default = [*replay, "--train_data_file", "data/prompt_distillation_lang.jsonl"]
    done = evaluate(*default, "--task", ROOT / "tasks/language", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot be checked" in done.stderr


def test_a_result_can_be_scored_again_and_the_old_one_is_kept(replay, tmp_path: Path) -> None:
    first = evaluate(*replay)
    earlier = tmp_path / "earlier.json"
    earlier.write_bytes((tmp_path / "result.json").read_bytes())

    second = evaluate(*replay, "--predictions_file", earlier)

    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert (tmp_path / "result.1.json").read_bytes() == earlier.read_bytes()
    assert "result.1.json" in second.stdout
    matrices = [
        json.loads((tmp_path / name).read_text())["confusion_matrix"]
        for name in ("result.json", "result.1.json")
    ]
    assert matrices[0] == matrices[1]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--test_file", None, "no such input file"),
        ("--test_file", b"", "holds no inputs"),
        ("--test_file", b"caf\xe9\n", "not UTF-8"),
        ("--test_file", b"x" * 100_000 + b"\n", "100,000 characters"),
        ("--ground_truth_file", b"fr\nxx\n" + b"fr\n" * 989, "unknown label 'xx'"),
        ("--ground_truth_file", b"fr\nde\n", "2 labels for 991 inputs"),
        ("--predictions_file", b"fr\nde\n", "2 predictions for 991 inputs"),
        ("--train_data_file", b"{nonsense\n", "line 1: not JSON"),
        ("--config", b"max_sample: 3\n", "did you mean 'max_samples'?"),
        ("--config", b"max_samples: many\n", "must be a whole number"),
    ],
)
def test_bad_files_end_in_one_line_and_write_nothing(
    replay, tmp_path: Path, flag: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.txt"
    if content is not None:
        path = write(
            tmp_path / ("bad.jsonl" if flag == "--train_data_file" else "bad.txt"), content
        )

    done = evaluate(*replay, flag, path)

    assert message in one_line(done)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_path", "./models/no-such-model"], "no-such-model"),
        (["--max_samples", "0"], "at least 1"),
        (["--split", "train"], "held_out, all"),
        (["--task", "tasks/none"], "no task at"),
        (["--output_file", "/dev/full"], "not a file"),
        (["--decoding", "scored", "--thinking"], "exclude each other"),
        (["--max_drop", "0.1"], "--baseline belong together"),
        (["--engine", "server"], "--server_url"),
    ],
)
def test_bad_flags_end_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = evaluate("--output_file", tmp_path / "result.json", *arguments)

    assert message in one_line(done)
    assert list(tmp_path.iterdir()) == []


def test_a_model_path_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    done = evaluate("--model_path", tmp_path / "empty", "--output_file", tmp_path / "result.json")

    assert "no model" in one_line(done)


def test_an_adapter_of_another_base_model(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write(adapter / "adapter_config.json", '{"base_model_name_or_path": "Qwen/Qwen3-4B"}')
    write(adapter / "adapter_model.safetensors", "")

    done = evaluate(
        "--model_path", adapter, "--base_model", "Qwen/Qwen3-8B",
        "--output_file", tmp_path / "result.json",
    )  # fmt: skip

    assert "trained on Qwen/Qwen3-4B, not on Qwen/Qwen3-8B" in one_line(done)


def test_a_full_disk_ends_in_one_line_and_keeps_the_old_result(replay, tmp_path: Path) -> None:
    old = '{"schema_version": 1, "predictions": []}'
    write(tmp_path / "result.json", old)

    # No room for a result of some 400 kB: what a write to a full disk looks like.
    done = evaluate(
        *replay,
        limit_file_size=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )

    assert "cannot write" in one_line(done)
    assert (tmp_path / "result.json").read_text() == old
    assert {path.name for path in tmp_path.glob("*.json*")} == {"result.json", "train.jsonl"}


def test_a_dataset_is_never_displaced_by_a_result(replay, tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.txt"):
        before = (tmp_path / name).read_bytes()
        assert name in one_line(evaluate(*replay, "--output_file", tmp_path / name))
        assert (tmp_path / name).read_bytes() == before


def write_csv(path: Path, *, first: int, count: int) -> Path:
    """A csv with column names of its own, of sentences in two languages."""
    rows = (
        f'"Sentence {i}, about it",{"fr" if i % 2 else "de"},t{i}\n'
        for i in range(first, first + count)
    )
    return write(path, "utterance,intent,thread\n" + "".join(rows))


def write_records(folder: Path, *, count: int) -> Path:
    """A dataset of the first sentences of `write_csv`, the way labelling leaves it."""
    dataset = folder / "data.jsonl"
    rows, records = [], []
    for i in range(count):
        text = f"Sentence {i}, about it"
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "fr"}]
        rows.append({"messages": turns})
        records.append(
            {
                "index": i, "text": text, "history": [], "group": f"t{i}", "held_out": False,
                "answer": "fr", "teacher_answer": "fr", "prompt_tokens": 9, "completion_tokens": 1,
            }
        )  # fmt: skip
    write(dataset, "".join(json.dumps(row) + "\n" for row in rows))
    write(folder / "data.records.jsonl", "".join(json.dumps(row) + "\n" for row in records))
    write(folder / "data.manifest.json", '{"held_out": {"share": 0.1, "seed": 0}}')
    return dataset


def columns_of(path: Path) -> list[str | Path]:
    return [
        "--test_file", path, "--text_field", "utterance", "--label_field", "intent",
        "--group_field", "thread",
    ]  # fmt: skip


def test_every_unseen_input_of_another_file_is_held_out(tmp_path: Path) -> None:
    dataset = write_records(tmp_path, count=100)
    test = write_csv(tmp_path / "test.csv", first=90, count=200)
    write(tmp_path / "predictions.txt", "fr\n" * 190)

    done = evaluate(
        *columns_of(test), "--train_data_file", dataset,
        "--predictions_file", tmp_path / "predictions.txt",
        "--output_file", tmp_path / "result.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["summary"]["total_samples"] == 190
    assert result["summary"]["accuracy"] == 0.5
    assert (result["truth"], result["overlap"]["groups"]) == ("gold", 0)


def test_without_any_known_answer_it_says_so(tmp_path: Path) -> None:
    test = write(tmp_path / "test.txt", "".join(f"text {i}\n" for i in range(5)))
    write(tmp_path / "train.jsonl", TRAINED_ON)
    write(tmp_path / "predictions.txt", "fr\n" * 5)

    done = evaluate(
        "--test_file", test, "--train_data_file", tmp_path / "train.jsonl",
        "--predictions_file", tmp_path / "predictions.txt",
        "--output_file", tmp_path / "result.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "None of these inputs has a known answer" in done.stderr
    assert "CONFUSION" not in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["summary"]["accuracy"] is None
    assert result["confusion_matrix"] is None


def test_a_random_student_is_evaluated_end_to_end(tiny_models, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(TRAINED_ON)
    done = evaluate(
        "--model_path", tiny_models.student, "--engine", "transformers", "--max_samples", "9",
        "--train_data_file", tmp_path / "train.jsonl", "--output_file", tmp_path / "result.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "[9/9] Pred:" in done.stdout
    assert "Held-out inputs only: the first 9 of 2101 held out, of 2101." in done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["summary"]["total_samples"] == 9
    assert result["usage"]["prompt_tokens_per_query"] > 5
    assert result["usage"]["engine"] == "transformers"
    assert result["split"] == "held_out"
    assert result["config"]["max_samples"] == 9
    assert result["provenance"]["versions"]["transformers"]


def test_the_teacher_is_evaluated_with_its_prompt(tiny_models, tmp_path: Path) -> None:
    done = evaluate(
        "--model_path", "none", "--base_model", tiny_models.teacher, "--engine", "transformers",
        "--with_prompt", "--thinking", "--max_samples", "2", "--max_tokens", "8",
        "--task", write_short_task(tmp_path), "--output_file", tmp_path / "result.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["reject_reasons"] == {"cut_by_length": 2}
    assert result["usage"]["prompt_tokens_per_query"] > 40
    assert "with the task's prompt, thinking" in done.stdout


def write_short_task(folder: Path) -> Path:
    """The language task under a prompt that a model of one token a byte has room for."""
    task = folder / "task"
    task.mkdir()
    (task / "task.yaml").write_bytes((ROOT / "tasks/language/task.yaml").read_bytes())
    (task / "prompt.md").write_text("Which language? Say `Final Answer: xx`.")
    return task


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--min_accuracy", "0.9", "--min_parse_rate", "0.99"], 0, "GATE PASSED: accuracy 91.12%"),
        (["--min_accuracy", "0.95"], 3, "GATE FAILED: accuracy 91.12% < 95.00%"),
        (["--min_parse_rate", "1"], 3, "GATE FAILED: parse rate 99.70% < 100.00%"),
    ],
)
def test_the_gate_has_its_own_exit_code(
    replay, tmp_path: Path, arguments: list[str], code: int, line: str
) -> None:
    done = evaluate(*replay, "--quiet", *arguments)

    assert done.returncode == code
    assert line in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["gate"]["reasons"]


def test_a_drop_against_a_baseline(replay, tmp_path: Path) -> None:
    evaluate(*replay, "--quiet", "--output_file", tmp_path / "old.json")
    worse = (tmp_path / "predictions.txt").read_text().replace("ot\n", "en\n")
    (tmp_path / "predictions.txt").write_text(worse)

    done = evaluate(*replay, "--quiet", "--max_drop", "0.05", "--baseline", tmp_path / "old.json")

    assert done.returncode == 3
    assert "GATE FAILED: a drop of 17.05 points" in done.stdout
