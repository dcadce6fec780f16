"""`scripts/generate_inputs.py` as a person uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def generate(folder, *flags):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/generate_inputs.py", *flags],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_questions_are_written_and_their_coverage_is_shown(tmp_path):
    done = generate(tmp_path, "--templates", "tasks/beethoven/questions.yaml", "--num_inputs", "50")
    assert done.returncode == 0, done.stderr
    assert "biographical" in done.stdout
    assert "50 inputs" in done.stdout
    assert len((tmp_path / "data/inputs.jsonl").read_text().splitlines()) == 50
    assert (tmp_path / "data/inputs.manifest.json").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "error: pass either --templates FILE"),
        (("--templates", "absent.yaml"), "error: no such file of templates: absent.yaml"),
        (("--examples", "absent.txt"), "error: no such input file: absent.txt"),
        (("--templates", "two.yaml", "--num_inputs", "3"), "only 2 of 3 inputs could be made"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(tmp_path, flags, said):
    (tmp_path / "two.yaml").write_text(
        "slots: {town: [Bonn, Vienna]}\ncategories:\n  biographical:\n    - Were you in {town}?\n"
    )
    done = generate(tmp_path, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data/inputs.jsonl").exists()


@pytest.mark.slow
def test_a_model_that_cannot_do_it_ends_with_the_count(tmp_path):
    """The example teacher only knows how to label languages: it brings nothing new."""
    (tmp_path / "examples.txt").write_text("Where is the station?\nWie spät ist es?\n")
    teacher = str(ROOT / "example-models" / "teacher")
    done = generate(
        tmp_path, "--examples", "examples.txt", "--model_name", teacher,
        "--engine", "transformers", "--num_inputs", "2000", "--max_tokens", "64",
        "--idle_requests", "3", "--max_retries", "0",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "of 2,000 inputs could be made: the last 3 of" in done.stderr
    assert (tmp_path / "data/inputs.journal.jsonl").is_file()
