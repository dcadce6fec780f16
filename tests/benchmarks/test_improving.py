"""What `benchmarks/improving.py` makes of its measurements."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("b", ROOT / "benchmarks" / "improving.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def way(*scores, new_rows=4):
    return {
        "scores": [{"accuracy": one, "f1": 0.5} for one in scores],
        "new_rows": new_rows, "teacher_tokens": 10 * new_rows,
    }  # fmt: skip


def test_the_interval_is_students_t(benchmark):
    assert benchmark.mean_with_interval(np.array([1.0, 2.0, 3.0])) == "+2.00 (-0.48 to +4.48)"
    assert benchmark.mean_with_interval(np.array([1.0])) == "+1.00"


def test_differences_are_paired_by_seed_and_of_the_last_round(benchmark):
    """A way that is five points better in each seed is so for certain, however seeds differ."""
    seeds = [
        {"rows": 9, "held_out": 40, "start": {"accuracy": 0.2}, "random": way(0.3, level),
         "uncertain": way(0.1, level + 0.05), "none": way(level - 0.1, new_rows=0)}
        for level in (0.4, 0.6, 0.8)
    ]  # fmt: skip
    lines = benchmark.table(seeds, "accuracy")
    assert "| random | 30.0%, 60.0% | - | 4 | 40 |" in lines
    assert "| uncertain | 10.0%, 65.0% | +5.00 (+5.00 to +5.00) | 4 | 40 |" in lines
    assert "| none | 50.0% | -10.00 (-10.00 to -10.00) | 0 | 0 |" in lines
