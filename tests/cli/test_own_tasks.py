"""A user's own task of each kind, with conversations: a folder, no code, through all commands."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prompt_distillation.cli.main import COMMANDS
from prompt_distillation.student import Student

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "example-models"
PROMPT = MODELS.parent / "tasks" / "language" / "prompt.md"
SCHEMA = {
    "type": "object",
    "required": ["language", "polite"],
    "additionalProperties": False,
    "properties": {"language": {"enum": ["de", "en", "fr"]}, "polite": {"type": "boolean"}},
}
TASKS: dict[str, dict[str, str]] = {
    "classification": {"task.yaml": "kind: classification\nlabels: [de, en, fr]\n"},
    "text": {"task.yaml": "kind: text\n"},
    "json": {"task.yaml": "kind: json\nvotes: field\n", "schema.json": json.dumps(SCHEMA)},
}
# The example teacher knows one prompt; the decoding keeps its answers to other tasks in form.
LABELLING = {
    "classification": ["--engine", "transformers", "--decoding", "constrained"],
    "text": ["--engine", "transformers"],
    "json": ["--engine", "vllm", "--decoding", "constrained", "--num_votes", "3"],
}
GOLD: dict[str, Any] = {
    "classification": "en", "text": "A text.", "json": {"polite": True, "language": "en"},
}  # fmt: skip
METRICS = {"classification": "labels", "text": "text", "json": "fields"}
OPENINGS = (
    "Good morning, where is the station?", "Guten Morgen, wo ist der Bahnhof?",
    "Bonjour, où est la gare ?", "See you tomorrow at the market.", "Das Wetter ist heute schön.",
    "Je voudrais un café, s'il vous plaît.",
)  # fmt: skip


def conversation(opening: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": opening},
        {"role": "assistant", "content": "de"},
        {"role": "user", "content": f"Are you sure? {opening}"},
    ]


def write_project(folder: Path, kind: str) -> None:
    """The task; and of each conversation its first turn and all of it, each one an input."""
    task = folder / "task"
    task.mkdir()
    for name, content in TASKS[kind].items():
        (task / name).write_text(content)
    (task / "prompt.md").write_text(PROMPT.read_text())
    turns = [conversation(opening)[:end] for opening in OPENINGS for end in (1, 3)]
    rows = [{"messages": messages, "label": GOLD[kind]} for messages in turns]
    (folder / "inputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `prompt-distillation NAME FLAGS` in this process, in ``tmp_path``; gives its stdout."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *flags: object) -> str:
        module = importlib.import_module(f"prompt_distillation.cli.{COMMANDS[name][0]}")
        capsys.readouterr()
        assert not module.main([str(flag) for flag in flags])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "kind", ["classification", "text", pytest.param("json", marks=pytest.mark.vllm)]
)
def test_an_own_task_with_conversations_goes_through_all_commands(kind, command, tmp_path) -> None:
    write_project(tmp_path, kind)
    # In a process of its own: vLLM and pytest's capture do not go together.
    done = subprocess.run(
        [
            sys.executable, "-m", "prompt_distillation", "create-data", "--task", "task",
            "--input_file", "inputs.jsonl", "--output_file", "rows.jsonl",
            "--model_name", MODELS / "teacher", "--held_out", "0.4", "--max_thinking_tokens", "24",
            "--max_tokens", "256", "--temperature", "0.3", *LABELLING[kind],
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "rows.records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 2 * len(OPENINGS)
    sides = {record["group"]: set() for record in records}
    for record in records:
        sides[record["group"]].add(record["held_out"])
        assert record["teacher_answer"] is not None
        assert record["reasoning"] or kind == "json"  # by field there may be no such vote
    assert len(sides) == len(OPENINGS)
    assert [len(side) for side in sides.values()] == [1] * len(OPENINGS)
    assert {True, False} == set.union(*sides.values())

    command(
        "train", "--train_file", "rows.jsonl", "--model_name", MODELS / "student",
        "--output_dir", "student", "--assistant_turns", "all", "--max_steps", 2,
        "--report_to", "none",
    )  # fmt: skip
    manifest = json.loads((tmp_path / "student" / "training_manifest.json").read_text())
    assert manifest["config"]["assistant_turns"] == "all"

    shown = command(
        "evaluate", "--task", "task", "--model_path", "student", "--engine",
        "transformers", "--test_file", "inputs.jsonl", "--train_data_file", "rows.jsonl",
        "--output_file", "result.json", "--max_tokens", 32,
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    held_out = sum(record["held_out"] for record in records)
    assert result["summary"]["total_samples"] == held_out
    assert result["metrics"] == METRICS[kind]
    assert {len(item["history"]) for item in result["predictions"]} == {0, 2}
    assert ("are valid by the schema" in shown) is (kind == "json")
    assert (result["field_scores"] is not None) is (kind == "json")

    command("report", "--result_file", "result.json", "--model_path", "student")
    page = (tmp_path / "report.html").read_text()
    assert ('id="h-fields"' in page) is (kind == "json")
    assert ('id="h-matrix"' in page) is (kind == "classification")
    assert "Are you sure?" in page


def test_a_student_answers_with_what_was_said_before(tiny_models) -> None:
    history = conversation("Good morning")[:2]
    with Student(tiny_models.student, engine="transformers", max_tokens=400) as student:
        alone = student.answer("Are you sure?")
        after = student.answer("Are you sure?", history=history)
        assert student.answer("Are you sure?", history=history) == after
    assert after != alone
