"""`scripts/compare.py` as a user runs it, with models that know nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation.data.result_files import read_comparison

ROOT = Path(__file__).parents[2]


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/compare.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


@pytest.fixture
def arguments(tiny_models, tmp_path: Path) -> list[str | Path]:
    task = tmp_path / "task"
    task.mkdir()
    (task / "task.yaml").write_bytes((ROOT / "tasks/language/task.yaml").read_bytes())
    (task / "prompt.md").write_text("Which language is it? Say `Final Answer: xx`.")
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ot"}]}\n'
    )
    return [
        "--teacher_model", tiny_models.teacher, "--student_path", tiny_models.student,
        "--base_model", tiny_models.student, "--task", task, "--engine", "transformers",
        "--train_data_file", tmp_path / "train.jsonl", "--output_dir", tmp_path / "out",
        "--max_samples", "6", "--teacher_max_tokens", "12", "--latency_samples", "2",
        "--concurrency", "2", "--price_per_hour", "3.6", "--training_cost", "2",
    ]  # fmt: skip


def test_all_cells_the_table_and_the_bill(arguments, tmp_path: Path) -> None:
    done = compare(*arguments, "--max_model_len", "700")

    assert done.returncode == 0, done.stderr
    assert "teacher, prompt + thinking" in done.stdout
    assert "queries per month" in done.stdout
    comparison = read_comparison(tmp_path / "out" / "comparison.json")
    assert [cell.key for cell in comparison.cells] == [
        "teacher", "teacher_direct", "student_prompted", "student_before", "student",
    ]  # fmt: skip
    teacher, student = comparison.cell("teacher"), comparison.cell("student")
    assert teacher is not None
    assert student is not None
    assert teacher.prompt_tokens_per_query > student.prompt_tokens_per_query + 40
    assert teacher.alone.n == 2
    assert teacher.loaded.n == 6
    assert teacher.loaded.concurrency == 2
    assert student.cost is not None
    assert student.cost.per_million_queries == pytest.approx(1000 / student.queries_per_second)
    assert comparison.bill is not None
    assert comparison.bill.training_cost == 2
    result = json.loads((tmp_path / "out" / "teacher.json").read_text())
    assert result["summary"]["total_samples"] == 6
    assert result["config"]["thinking"] is True
    scored = json.loads((tmp_path / "out" / "student_scored.json").read_text())
    assert scored["config"]["decoding"] == "scored"
    assert sum(scored["predictions"][0]["label_probabilities"].values()) == pytest.approx(1)
    assert comparison.confidence is not None
    assert comparison.confidence.shown is not None
    assert comparison.confidence.shown.cascade is not None
    assert comparison.confidence.shown.cascade.n == 6
    assert "Expected calibration error" in done.stdout
    assert "Inputs that only the student gets right: " in done.stdout
    assert comparison.student_against_teacher is not None
    assert (tmp_path / "out" / "comparison.md").read_text().startswith("| | accuracy")

    again = compare(*arguments)

    assert again.returncode == 2
    assert "already exists" in again.stderr


def test_free_text_has_nothing_to_score_and_scoring_can_be_left_out(
    arguments, tmp_path: Path
) -> None:
    task = tmp_path / "task"
    (task / "task.yaml").write_text("name: persona\nkind: generation\n")
    few = ["--cells", "student", "--max_samples", "2", "--latency_samples", "1"]

    done = compare(*arguments, *few)

    assert done.returncode == 0, done.stderr
    assert "the answers of 'persona' are no labels" in done.stdout
    assert not (tmp_path / "out" / "student_scored.json").exists()

    (task / "task.yaml").write_bytes((ROOT / "tasks/language/task.yaml").read_bytes())
    # An input that no engine can take costs its own answer, and nothing of the others'.
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("word " * 3000 + "\nGuten Morgen\n")
    own = ["--test_file", inputs, "--split", "all", "--max_model_len", "700"]
    done = compare(*arguments, *few, *own, "--no_score_labels", "--overwrite")

    assert done.returncode == 0, done.stderr
    student = read_comparison(tmp_path / "out" / "comparison.json").cell("student")
    assert student is not None
    assert (student.alone.n, student.loaded.n) == (1, 1)
    result = json.loads((tmp_path / "out" / "student.json").read_text())
    assert result["reject_reasons"]["engine_error"] == 1
    assert "switched off by --no_score_labels." in done.stdout


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--cells", "teacher,nobody"], "known are teacher"),
        (
            [
                "--teacher_price_per_million_input_tokens",
                "1",
                "--teacher_price_per_million_output_tokens",
                "1",
            ],
            "pass them for both or neither",
        ),
        (
            ["--student_price_per_million_cached_tokens", "1"],
            "--student_price_per_million_output_tokens belong together",
        ),
        (
            ["--student_price_per_million_output_tokens", "-1"],
            "--student_price_per_million_output_tokens is -1.0",
        ),
        (["--price_per_hour", "0"], "would cost nothing"),
        (["--student_path", "./models/no-such-model", "--base_model", "none"], "no-such-model"),
    ],
)
def test_bad_options_end_in_one_line(arguments, tmp_path: Path, extra, message: str) -> None:
    done = compare(*arguments, *extra)

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistyped_student_is_told_before_the_teacher_is_measured(arguments) -> None:
    done = compare(*arguments, "--student_path", "recipes/nope")

    assert done.returncode == 2
    assert "error: no model at recipes/nope: there is no such folder" in done.stderr
    assert not done.stdout
