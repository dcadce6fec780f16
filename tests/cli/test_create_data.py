"""`create_data.py` as a user runs it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.errors import ConfigError

ROOT = Path(__file__).parents[2]


def create_data(
    *arguments: str | Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "create_data.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=before,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that failed as a command should: one line and code 2."""
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_help_names_every_flag_with_its_default():
    done = create_data("--help")
    assert done.returncode == 0
    for flag in ("--task", "--num_votes N", "--max_retries N", "--shard_index N", "--overwrite"):
        assert flag in done.stdout
    assert "(default: Qwen/Qwen3-30B-A3B-Thinking-2507)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such input file"),
        (b"", "holds no inputs"),
        (b"\n \n", "holds no inputs"),
        (b"fine\ncaf\xe9\n", "line 2: not UTF-8"),
        (b"fine\n" + b"x" * 100_000 + b"\n", "line 2: 100,000 characters"),
    ],
)
def test_inputs_that_cannot_be_taken_are_one_line(tmp_path, content, message):
    path = tmp_path / "in.txt"
    if content is not None:
        path.write_bytes(content)
    done = create_data("--input_file", path, "--output_file", tmp_path / "out.jsonl")
    assert message in one_line(done)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ('{"label": "fr"}\n{"label": "xx"}\n', "unknown label 'xx'"),
        ('{"label": "fr"}\n', "needs one row per line"),
    ],
)
def test_gold_that_does_not_fit_is_one_line(tmp_path, gold, message):
    (tmp_path / "in.txt").write_text("un\ndeux\n")
    (tmp_path / "in.gold.jsonl").write_text(gold)
    done = create_data("--input_file", tmp_path / "in.txt", "--output_file", tmp_path / "o.jsonl")
    assert message in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temprature", "1"], "did you mean 'temperature'"),
        (["--model_name", "./models/nothing"], "no model at ./models/nothing"),
        (["--output_file", "out.txt"], "name ends in .jsonl"),
        (["--task", "tasks/nothing"], "no task at tasks/nothing"),
        (["--engine", "server"], "needs --server_url"),
        (["--server_url", "http://me:secret@host/v1"], "holds a user name or a password"),
        (["--server_url", "http://[::1/v1"], "is not a URL"),
        (["--price_per_million_input_tokens", "1"], "belong together"),
        (["--shard_index", "2", "--num_shards", "2"], "must be between 0 and 1"),
    ],
)
def test_flags_that_cannot_be_taken_are_one_line(arguments, message):
    error = one_line(create_data(*arguments))
    assert message in error
    assert "secret" not in error


def test_an_unknown_yaml_key_is_one_line(tmp_path):
    (tmp_path / "run.yaml").write_text("max_token: 5\n")
    done = create_data("--config", tmp_path / "run.yaml")
    assert "did you mean 'max_tokens'" in one_line(done)


def test_votes_need_a_temperature():
    with pytest.raises(ConfigError, match="all votes would be the same"):
        LabelConfig.of(num_votes=3, temperature=0.0)


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*create-data*.yaml")), ids=str)
def test_every_recipe_is_read(recipe, tmp_path):
    done = create_data("--config", recipe, "--input_file", tmp_path / "missing.txt")
    assert "no such input file" in one_line(done)


@pytest.mark.slow
def test_a_real_model_labels_and_a_full_disk_costs_nothing(tmp_path, tiny_models):
    inputs = tmp_path / "in.txt"
    inputs.write_text("".join(f"number {number}\n" for number in range(6)))
    command = [
        "--input_file", inputs, "--output_file", tmp_path / "out.jsonl", "--engine", "transformers",
        "--model_name", tiny_models.teacher, "--max_tokens", "4", "--max_retries", "1",
        "--task", _short_task(tmp_path),
    ]  # fmt: skip

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, 1_500))

    full = create_data(*command, before=fill_disk)
    assert full.returncode == 2, full.stderr
    assert "free some space, then run the same command again" in full.stderr.splitlines()[-1]
    assert not (tmp_path / "out.jsonl").exists()
    done = create_data(*command)
    # A random model answers nothing: each input is rejected, with its reason.
    rejects_file = tmp_path / "out.rejects.jsonl"
    assert "all 6 inputs were rejected" in one_line(done)
    assert str(rejects_file) in one_line(done)
    assert one_line(create_data(*command)) == one_line(done)
    lines = rejects_file.read_bytes().splitlines()
    rejects = [json.loads(line) for line in lines]
    assert len(rejects) == 6
    assert {row["reason"] for row in rejects} <= {"cut_by_length", "no_end_of_thinking"}
    assert f"most inputs got no label: read {rejects_file}" in done.stdout
    journal = (tmp_path / "out.journal.jsonl").read_text().splitlines()
    keys = [(r["key"], r["attempt"]) for r in map(json.loads, journal) if "key" in r]
    assert len(set(keys)) == len(keys)


def _short_task(folder: Path) -> Path:
    """The language task with a prompt of one line: a byte is a token of the tiny models."""
    task = folder / "task"
    task.mkdir()
    (task / "task.yaml").write_text((ROOT / "tasks/language/task.yaml").read_text())
    (task / "prompt.md").write_text("Name the language, and end with `Final Answer: xx`.\n")
    return task
