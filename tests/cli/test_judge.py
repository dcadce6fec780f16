"""`scripts/judge.py` and the report of what it wrote, as a user runs them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engines.vllm_server import vllm_server
from test_judging import HOSTILE, run_judge, write_answers

from prompt_distillation.data.judgement import read_judgement
from prompt_distillation.data.result_files import read_result
from prompt_distillation.report.page import PageParts, build_page

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.vllm
@pytest.mark.slow
def test_the_example_teacher_judges_behind_a_real_server(tmp_path: Path) -> None:
    student = write_answers(tmp_path, "student", ["Guten Tag.", "Paris.", HOSTILE, "same"])
    teacher = write_answers(tmp_path, "teacher", ["Hello there.", "It is Paris.", "Well.", "same"])
    arguments = [
        "--model", str(ROOT / "example-models" / "teacher"), "--served-model-name", "t",
        "--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}',
    ]  # fmt: skip
    with vllm_server(arguments, log=tmp_path / "log") as url:
        done = run(
            "scripts/judge.py", "--student_file", student, "--teacher_file", teacher,
            "--model_name", "t", "--engine", "server", "--server_url", url,
            "--decoding", "constrained", "--max_tokens", "100", "--output_dir", tmp_path / "judge",
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    judgement = read_judgement(tmp_path / "judge" / "judge.json")
    assert judgement.without_verdict == 0
    assert len(judgement.pairs) == 4
    assert judgement.overall.ties >= 1
    assert "| overall |" in done.stdout
    assert "mark of its chat template" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_name is not given"),
        (["--model_name", "m", "--student_file", "no.json"], "no such file: no.json"),
        (["--model_name", "m", "--task", "no/task"], "--task no/task is not a folder"),
    ],
)
def test_bad_options_end_in_one_line(arguments: list[str], message: str) -> None:
    done = run("scripts/judge.py", *arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_shows_the_judgement_and_hostile_texts_stay_texts(tmp_path: Path) -> None:
    judgement = run_judge(tmp_path, lambda pair: "first", count=4)
    hostile = tuple(replace(pair, student=HOSTILE) for pair in judgement.pairs)
    result = read_result(tmp_path / "student.json")

    page = build_page(
        PageParts(results={"m": result}, main="m", judgement=replace(judgement, pairs=hostile))
    )

    assert 'id="h-judge"' in page
    assert "<script>alert(1)" not in page
    assert "100.0%" in page
