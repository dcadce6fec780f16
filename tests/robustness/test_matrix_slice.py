"""A quick slice of the matrix of hostile cases, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

from hostile_cases import ALL_CASES

ROOT = Path(__file__).parents[2]
SLICE = (
    "folders/create_data/journal", "folders/report/page+overwrite", "folders/train/checkpoint-best",
    "inputs/create_data/same.heldout", "inputs/evaluate/link-in.jsonl",
    "inputs/export/parent-of-adapter", "inputs/report/link-to-result",
    "inputs/train/folder-of-rows", "labels/create_data/word-hyphen",
    "patterns/create_data/nested-plus",
    "surrogates/evaluate/answer", "markers/train/turn", "markers/evaluate/turn",
    "tables/create_data/more-fields.csv", "tables/evaluate/stray-quote.tsv",
    "encodings/create_data/utf-16-le.txt", "encodings/evaluate/gzip.csv",
    "rows/create_data/role-tool-history", "groups/create_data/one-group",
    "yaml/recipe/twice-a-key", "yaml/task/twice-a-label", "journal/vote-null", "loss/weights-nan",
    "sizes/train/lora_rank=1000000", "sizes/create_data/num_votes=1000000",
    "server/create_data/html", "kills/create_data/killed-at-5",
)  # fmt: skip


def test_a_slice_of_the_matrix_holds(tmp_path):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable, "benchmarks/robustness.py", "--afresh_every=0",
            f"--output_file={report}", "--only", *SLICE,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    summary = json.loads(report.read_text())
    assert summary["tried"] >= len(SLICE)
    assert done.returncode == 0, done.stdout
    assert f"tried {summary['tried']}, passed {summary['tried']}, failed 0" in done.stdout


def test_the_matrix_says_which_case_failed(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/robustness.py", "--only", "nothing-is-called-so"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing-is-called-so" in done.stdout


def test_the_matrix_has_at_least_the_promised_number_of_cases_and_no_name_twice():
    names = [f"{case.group}/{case.name}" for case in ALL_CASES]
    assert len(names) >= 300
    assert len(set(names)) == len(names)
