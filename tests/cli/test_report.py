"""`scripts/report.py` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training.wandb_file import summary

from prompt_distillation.data.files import write_json

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


def test_from_predictions_to_a_page(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("Hallo\nBonjour\n<script>x</script>\n")
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ot"}]}\n'
    )
    (tmp_path / "truth.txt").write_text("de\nfr\not\n")
    (tmp_path / "predictions.txt").write_text("de\nen\not\n")
    (tmp_path / "adapter_config.json").write_text("{}")
    evaluated = run(
        "evaluate.py", "--test_file", tmp_path / "test.txt", "--split", "all",
        "--ground_truth_file", tmp_path / "truth.txt",
        "--train_data_file", tmp_path / "train.jsonl",
        "--predictions_file", tmp_path / "predictions.txt",
        "--output_file", tmp_path / "result.json",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    arguments = [
        "--result_file", tmp_path / "result.json", "--output_file", tmp_path / "report.html",
        "--plots_dir", tmp_path / "plots", "--model_path", tmp_path,
    ]  # fmt: skip

    done = run("scripts/report.py", *arguments, "--model_card", "--report_to", "wandb")

    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "<strong>66.7%</strong>" in page
    assert "<script>x" not in page
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4
    assert "model-index" in (tmp_path / "README.md").read_text()
    (recorded,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = summary(recorded)
    assert logged["eval/accuracy"] == pytest.approx(2 / 3)
    assert logged["eval/errors.nrows"] == 1

    again = run("scripts/report.py", *arguments)

    assert again.returncode == 2
    assert "already exists" in again.stderr

    result = json.loads((tmp_path / "result.json").read_text())
    result |= {"model_path": "none", "config": result["config"] | {"predictions_file": None}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    card = (tmp_path / "README.md").read_text()
    other = run("scripts/report.py", *arguments, "--model_card", "--overwrite")

    assert other.returncode == 2
    assert "would write the results of none into the card of" in other.stderr
    assert (tmp_path / "README.md").read_text() == card


def test_a_missing_result_is_one_line(tmp_path: Path) -> None:
    done = run(
        "scripts/report.py", "--result_file", tmp_path / "none.json",
        "--output_file", tmp_path / "r.html", "--plots_dir", tmp_path / "plots",
    )  # fmt: skip

    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_replaced_that_is_not_an_older_report(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"summary": {}}')
    (tmp_path / "notes.html").write_text("<title>my own notes</title>")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cost.png").write_bytes(b"\x89PNG of somebody else")
    (tmp_path / "holidays").mkdir()
    (tmp_path / "holidays" / "beach.png").write_bytes(b"a photograph")
    before = hashes(tmp_path)
    free = {"--output_file": tmp_path / "report.html", "--plots_dir": tmp_path / "plots"}
    for wrong, said in (
        ({"--output_file": tmp_path / "result.json"}, "would overwrite the input"),
        ({"--output_file": tmp_path / "notes.html"}, "was not written by this command"),
        ({"--output_file": tmp_path / "pictures"}, "was not written by this command"),
        ({"--plots_dir": tmp_path / "pictures"}, "was not written by this command"),
        ({"--plots_dir": tmp_path / "holidays"}, "was not written by this command"),
        ({"--plots_dir": tmp_path / "notes.html"}, "is not a folder"),
    ):
        flags = [word for pair in {**free, **wrong}.items() for word in pair]
        done = run(
            "scripts/report.py", "--result_file", tmp_path / "result.json", "--overwrite", *flags
        )
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert hashes(tmp_path) == before


def test_texts_and_probes_on_one_page(tmp_path: Path, make_probes) -> None:
    (tmp_path / "test.jsonl").write_text(
        '{"text": "Fog?", "label": "Thick."}\n{"text": "Wind?", "label": "Four."}\n'
    )
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
    )
    (tmp_path / "predictions.txt").write_text("Thick.\nSeven.\n")
    evaluated = run(
        "evaluate.py", "--task", "tasks/persona", "--test_file", tmp_path / "test.jsonl",
        "--train_data_file", tmp_path / "train.jsonl",
        "--predictions_file", tmp_path / "predictions.txt",
        "--output_file", tmp_path / "result.json",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    assert "quotes the prompt:    0.000 (0.000-" in evaluated.stdout
    write_json(tmp_path / "probes.json", make_probes())
    arguments = [
        "--result_file", tmp_path / "result.json", "--output_file", tmp_path / "report.html",
        "--plots_dir", tmp_path / "plots", "--model_path", tmp_path,
    ]  # fmt: skip

    done = run("scripts/report.py", *arguments, "--probes_file", tmp_path / "probes.json")

    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "<td>distinct-1</td>" in page
    assert "KL(student || base)" in page

    done = run("scripts/report.py", *arguments, "--overwrite", "--probes_file",
               tmp_path / "result.json")  # fmt: skip

    assert done.returncode == 2
    assert "not a result of probe.py" in done.stderr
