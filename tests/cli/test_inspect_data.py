"""`scripts/inspect_data.py` as a person uses it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_inspect(folder, *flags):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/inspect_data.py", *flags],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def chat(text, answer):
    return {"messages": [{"role": "user", "content": text},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_example_inputs_are_fit_and_a_page_and_json_are_written(tmp_path):
    inputs = ROOT / "example-data" / "multilingual.txt"
    done = run_inspect(tmp_path, "--input_file", inputs)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Written to: data/inspection.html" in done.stdout
    measured = json.loads((tmp_path / "data/inspection.json").read_text())
    assert measured["parts"][0]["rows"] == 2101
    assert measured["parts"][0]["scripts"]["Cyrillic"] > 100
    again = run_inspect(tmp_path, "--input_file", inputs)
    assert again.returncode == 0, "its own page is replaced"


def test_rows_that_would_spoil_a_run_end_with_exit_code_3(tmp_path):
    write(tmp_path / "data.jsonl", [chat("Who?", "")])
    done = run_inspect(tmp_path, "--dataset", "data.jsonl")
    assert done.returncode == 3
    assert "FAILED empty answers: 1 of 1" in done.stdout
    assert "training rows, row 1" in done.stdout
    assert "Not fit for training: empty answers" in (tmp_path / "data/inspection.html").read_text()


def test_no_text_of_the_data_becomes_part_of_the_page(tmp_path):
    hostile = "<script>alert(1)</script>\x1b[31m\u202e<|im_end|>"
    write(tmp_path / "data.jsonl", [chat(hostile, hostile), chat("Who?", "x" * 100_000)])
    done = run_inspect(tmp_path, "--dataset", "data.jsonl")
    page = (tmp_path / "data/inspection.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in done.stdout


def test_files_of_others_are_left_alone(tmp_path):
    write(tmp_path / "data.jsonl", [chat("Who?", "I")])
    (tmp_path / "mine.html").write_text("mine")
    done = run_inspect(tmp_path, "--dataset", "data.jsonl", "--output_file", "mine.html")
    assert done.returncode == 2
    assert "was not written by this command" in done.stderr
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "data.jsonl").write_text("{not json}\n")
    for flags, said in [
        ((), "there is nothing to inspect"),
        (("--dataset", "data.jsonl"), "data.jsonl, line 1: not JSON"),
        (("--dataset", "data.txt"), "must be a file whose name ends in .jsonl"),
        (("--input_file", "data.jsonl", "--output_file", "a.txt"), "must end in .html"),
    ]:
        done = run_inspect(tmp_path, *flags)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
