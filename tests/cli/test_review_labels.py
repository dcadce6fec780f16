"""`scripts/review_labels.py` as a person uses it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from labelling.scripted import ScriptedEngine, answer, run_label, write_inputs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six inputs that a teacher calls French; gold says that two are English."""
    write_inputs(tmp_path, 6)
    labels = ["fr", "en", "fr", "fr", "en", "fr"]
    gold = [json.dumps({"label": label}) for label in labels]
    (tmp_path / "inputs.gold.jsonl").write_text("\n".join(gold))
    run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")), held_out=0.0)
    return tmp_path / "out.jsonl"


def review(dataset: Path, *flags: str, typed: str | None = None) -> subprocess.CompletedProcess:
    """Run the script, with a terminal that ``typed`` is typed on, or without one."""
    command = [sys.executable, ROOT / "scripts/review_labels.py", "--dataset", dataset, *flags]
    if typed is None:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    person, terminal = pty.openpty()
    try:
        os.write(person, typed.encode())
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=terminal, check=False
        )
    finally:
        os.close(person)
        os.close(terminal)


def test_a_link_to_the_dataset_leads_to_its_corrections_and_its_journal(dataset, tmp_path):
    link = tmp_path / "elsewhere" / "lang.jsonl"
    link.parent.mkdir()
    link.symlink_to(dataset)
    done = review(link, "--show", "gold", typed="en\n\n")
    assert "2 decided" in done.stdout, done.stderr
    assert (tmp_path / "out.corrections.jsonl").is_file()
    result, engine = run_label(tmp_path, output_file=link, held_out=0.0, overwrite=True)
    assert (result.counts.corrected, engine.opened) == (1, 0)
    assert list(link.parent.iterdir()) == [link]
    assert link.is_symlink()
    assert link.read_bytes() == dataset.read_bytes()


def test_corrections_are_written_and_the_dataset_honours_them(dataset):
    done = review(dataset, "--show", "gold", typed="xx\nen\n\n")
    assert done.returncode == 0, done.stderr
    assert "unknown label 'xx'" in done.stdout
    assert "2 inputs shown, 2 decided" in done.stdout
    path = dataset.with_name("out.corrections.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["text"], row["was"], row["answer"]) for row in rows] == [
        ("sentence number 1", "fr", "en"),
        ("sentence number 4", "fr", "fr"),
    ]
    # Decided is decided.
    assert "0 inputs shown" in review(dataset, "--show", "gold", "--list").stdout
    _, engine = run_label(dataset.parent, held_out=0.0, overwrite=True)
    answers = [
        json.loads(line)["messages"][-1]["content"] for line in dataset.read_text().splitlines()
    ]
    assert answers == ["fr", "en", "fr", "fr", "fr", "fr"]
    assert not engine.requests


def test_stopping_and_leaving_open_decide_nothing(dataset):
    done = review(dataset, "--show", "gold", typed="s\nq\n")
    assert "2 inputs shown, 0 decided" in done.stdout
    assert not dataset.with_name("out.corrections.jsonl").exists()


def test_without_a_terminal_it_lists_or_says_so(dataset):
    done = review(dataset)
    assert done.returncode == 2
    assert done.stderr == ("error: there is no terminal to decide in; pass --list to print them\n")
    assert "gold: gold says en" in review(dataset, "--list").stdout


def test_a_hostile_input_cannot_steer_the_terminal(dataset):
    records = dataset.with_name("out.records.jsonl")
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows[1] |= {"text": "a\x1b[2Jb", "reasoning": "\u202ec", "answer": "\x1b]0;d"}
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = review(dataset, "--list").stdout
    assert r"a\x1b[2Jb" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_no_records_are_one_line(tmp_path):
    done = review(tmp_path / "none.jsonl", "--list")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no records at" in done.stderr
