"""The machinery of `benchmarks/robustness.py`, for tests that run commands by the dozen."""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from hostile_cases.fixtures import Things  # noqa: E402
from hostile_cases.launching import Launcher  # noqa: E402
from hostile_cases.trial import Trial, opened  # noqa: E402


@pytest.fixture(scope="session")
def launcher():
    """Forks a command in a tenth of a second, from a process that has imported the libraries."""
    with Launcher() as launcher:
        yield launcher


@pytest.fixture(scope="session")
def new_trial(launcher, tmp_path_factory):
    """Opens a folder of its own for one example: Hypothesis draws many for each test."""
    things = Things(tmp_path_factory.mktemp("things"), launcher)

    @contextmanager
    def make():
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(folder=Path(folder), things=things, launcher=launcher)
            with opened(trial):
                yield trial

    return make
