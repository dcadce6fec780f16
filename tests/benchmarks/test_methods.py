"""What `benchmarks/methods.py` compares, and how its table counts."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import methods
import methods_table

from prompt_distillation.data.inputs import read_inputs


def outputs(answers: str) -> list[Any]:
    return [SimpleNamespace(answer=answer) for answer in answers]


def test_an_output_is_exchanged_for_one_with_another_answer() -> None:
    rows: list[Any] = [({"text": str(number)}, outputs("ab")) for number in range(200)]
    exchanged = methods._exchanged(rows, 0.2)
    wrong = [
        (own.answer != given.answer)
        for (_, before), (_, after) in zip(rows, exchanged, strict=True)
        for own, given in zip(before, after, strict=True)
    ]
    assert 0.14 < sum(wrong) / len(wrong) < 0.26
    assert [given for _, given in methods._exchanged(rows, 0.0)] == [own for _, own in rows]


def test_two_calls_have_the_card_of_both() -> None:
    first, second = list(read_inputs(Path("example-data/card.jsonl")))[:2]
    both = methods.two_calls(first, second)
    assert both.text == f"{first.text} {second.text}"
    assert both.group == first.group
    assert both.gold == (
        '{"question":true,"length":"long","boat":null,"numbers":[27,32],"urgent":true}'
    )


def test_a_difference_is_paired_by_seed_and_input() -> None:
    base = np.random.default_rng(1).random((5, 40))
    mean, low, high = methods_table.difference(base + 0.1, base)
    assert mean == pytest.approx(0.1)
    assert (low, high) == pytest.approx((0.1, 0.1))
    mean, low, high = methods_table.difference(np.eye(5, 40), np.zeros((5, 40)))
    assert mean == pytest.approx(5 / 200)
    assert low < mean < high


def run(score: float) -> dict[str, Any]:
    return {"scores": {"held out": [score] * 4, "shifted": [score] * 4},
            "perplexity": 10.0, "cpu_seconds": 1.0}  # fmt: skip


def test_the_table_has_the_seeds_with_which_every_method_was_run() -> None:
    runs = {f"clean / {name} / 0": run(0.5) for name in methods_table.ROWS}
    runs["clean / on_policy / 0"] = run(0.75)
    runs["clean / sft / 1"] = run(0.1)
    assert methods_table.whole_seeds(runs, "clean") == [0]
    made = {"one vote": {"rows": 4, "teacher_tokens": 100, "as_gold": None}}
    done = {"task": "card", "runs": runs, "datasets": {"clean": made}, "perplexity_before": 9.0}
    lines = methods_table.table(done, "clean", [0])
    assert [line for line in lines if line.startswith("| on_policy | 75.0 % | +25.0 (")]
    assert "on_policy` against the run that it continues: F1 of values +25.0" in lines[-1]
