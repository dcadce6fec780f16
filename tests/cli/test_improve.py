"""`scripts/improve.py` as a person uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation.cli.improve import result_lines
from prompt_distillation.data.improvement import Improvement, Round
from prompt_distillation.data.intervals import Estimate, Interval

ROOT = Path(__file__).parents[2]


def estimate(value, low, high):
    return Estimate(value=value, interval=Interval(low=low, high=high))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "error: there is nothing to choose from; pass --pool FILE"),
        (("--pool", "no.txt"), "training_manifest.json is not there; --student_path must be"),
        (("--pool", "no.txt", "--replay", "-1"), "error: --replay is -1.0; it must be between"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(tmp_path, flags, said):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/improve.py", *flags],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_what_each_round_brought():
    rounds = (
        Round(number=0, student="s", score=estimate(0.9, 0.88, 0.92)),
        Round(
            number=1, student="out/round-1/student", score=estimate(0.95, 0.93, 0.97), asked=1200,
            new_rows=1190, old_rows=1190, teacher_tokens=45000, gain=estimate(0.05, 0.03, 0.07),
        ),
    )  # fmt: skip
    made = Improvement(
        metric="accuracy", held_out=500, rounds=rounds, stopped="--max_rounds 1 is reached",
        total_gain=estimate(0.05, 0.03, 0.07),
    )  # fmt: skip
    text = "\n".join(result_lines(made))
    assert "| 0 | - | - | - | - | 90.0% (88.0-92.0) | - |" in text
    assert (
        "| 1 | 1,200 | 1,190 | 1,190 | 45,000 | 95.0% (93.0-97.0) | "
        "+5.0 (+3.0 to +7.0) over round 0 |" in text
    )
    assert "Ended: --max_rounds 1 is reached. Measured on 500 held-out inputs." in text
    assert "+5.0 (+3.0 to +7.0) points over the student to begin with: out/round-1/student" in text
    nothing = Improvement(metric="chrF", held_out=5, rounds=rounds[:1], stopped="so")
    assert "No round is better" in "\n".join(result_lines(nothing))
