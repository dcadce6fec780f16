"""`scripts/probe.py` as a user runs it: the example teacher, and students that know nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation.data.probes import read_probes

ROOT = Path(__file__).parents[2]


def probe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/probe.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


@pytest.fixture
def arguments(tiny_models, tmp_path: Path) -> list[str | Path]:
    """The prompt of the example task, whose answers are taken as texts."""
    task = tmp_path / "task"
    task.mkdir()
    (task / "task.yaml").write_text("name: sorter\nkind: text\n")
    (task / "prompt.md").write_bytes((ROOT / "tasks/language/prompt.md").read_bytes())
    (task / "pressure.yaml").write_text("list:\n  - Name three birds.\n  - Name two boats.\n")
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
    )
    # Another model with the tokens and the template of its "base".
    student = Path(shutil.copytree(tiny_models.teacher, tmp_path / "student"))
    shutil.copy(tiny_models.student / "chat_template.jinja", student)
    return [
        "--teacher_model", "example-models/teacher", "--student_path", student,
        "--base_model", tiny_models.student, "--task", task, "--engine", "transformers",
        "--train_data_file", tmp_path / "train.jsonl", "--max_samples", "8",
        "--teacher_max_tokens", "200", "--output_file", tmp_path / "probes.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_probe_is_measured_and_shown(arguments, tmp_path: Path) -> None:
    done = probe(*arguments)

    assert done.returncode == 0, done.stderr
    probes = read_probes(tmp_path / "probes.json")
    assert probes.character is not None
    assert probes.character.accuracy.value > 0.8
    assert probes.character.models["teacher"].value > 0.8
    assert [(one.category, one.questions) for one in probes.pressure] == [("list", 2)]
    assert len(probes.inputs) == 10
    assert probes.perplexity is not None
    assert probes.perplexity.before.value != probes.perplexity.after.value
    assert probes.forgetting is not None
    assert probes.forgetting.divergence is not None
    assert probes.forgetting.divergence.nats_per_token.value > 0
    for words in ("it is right on", "Under pressure", "KL(student || base)", "Written to:"):
        assert words in done.stdout

    again = probe(*arguments)

    assert again.returncode == 2
    assert "already exists" in again.stderr


def test_likelihoods_need_no_texts(arguments, tmp_path: Path) -> None:
    own = tmp_path / "plain.txt"
    own.write_text("The tide rises.\n\nThe tide falls.\n")

    done = probe(*arguments, "--task", "tasks/language", "--probes", "forgetting",
                 "--plain_text_file", own)  # fmt: skip

    assert done.returncode == 0, done.stderr
    probes = read_probes(tmp_path / "probes.json")
    assert probes.character is None
    assert probes.perplexity is None
    assert probes.forgetting is not None
    assert probes.forgetting.plain_text.texts == 2
    assert probes.forgetting.plain_text_file == str(own)
    assert "teacher" not in {key for item in probes.inputs for key in item.answers}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--probes", "charisma"], "known are character"),
        (["--probes", "pressure"], "add character"),
        (["--task", "tasks/language"], "pass --probes perplexity,forgetting"),
        (["--base_model", "none"], "pass --base_model"),
        (["--plain_text_file", "nothing.txt"], "no such file: nothing.txt"),
        (["--engine", "server", "--server_url", "http://localhost:1/v1"], "several are asked"),
        (["--output_file", "README.md"], "not written by this command"),
        (["--student_path", "recipes/nope"], "no model at recipes/nope"),
    ],
)
def test_bad_options_end_in_one_line(arguments, tmp_path: Path, extra, message: str) -> None:
    done = probe(*arguments, *extra)

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "probes.json").exists()
