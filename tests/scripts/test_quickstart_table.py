import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare; pass NAME=RESULT.json, once per row"),
        (["teacher"], "'teacher' is not NAME=RESULT.json"),
        (["teacher=absent.json"], "no such file: absent.json"),
        (["teacher=example-models/student/config.json"], "not a result of evaluate.py"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    done = subprocess.run(
        [sys.executable, "scripts/quickstart_table.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
