import dataclasses
from pathlib import Path

import pytest

from prompt_distillation.config.evaluate_config import EvaluateConfig, GateConfig
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import GateVerdict, Result
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.evaluation.evaluator import build_result
from prompt_distillation.evaluation.gate import check_gate
from prompt_distillation.evaluation.selection import read_labelled_data, select


@pytest.fixture
def result_with(tmp_path, language_task, make_prediction):
    """A result of ``total`` inputs, of which those in ``wrong`` are."""

    def make(total: int, wrong: range) -> Result:
        inputs = [Input(index=i, text=f"text {i}", group=f"g{i}", gold="fr") for i in range(total)]
        training = read_labelled_data(tmp_path / "none.jsonl")
        return build_result(
            select(inputs, training, split="all", max_samples=None, truth=None),
            tuple(
                make_prediction("fr", "de" if i in wrong else "fr", index=i) for i in range(total)
            ),
            task=language_task,
            base_model="b",
            config=EvaluateConfig.of(model_path="m", test_file="t.txt", train_data_file="d.jsonl"),
        )

    return make


def drop(most: float) -> GateConfig:
    return GateConfig(max_drop=most, baseline=Path("old.json"))


def gate(result: Result, rules: GateConfig, baseline: Result | None = None) -> GateVerdict:
    verdict = check_gate(result, rules, baseline=baseline)
    assert verdict is not None
    return verdict


def test_no_rules_no_verdict(result_with) -> None:
    assert check_gate(result_with(4, range(1)), GateConfig(), baseline=None) is None


def test_accuracy_and_parse_rate_are_lines_to_meet(result_with) -> None:
    result = result_with(100, range(5))

    assert gate(result, GateConfig(min_accuracy=0.95)).status == "passed"
    failed = gate(result, GateConfig(min_accuracy=0.96, min_parse_rate=0.99))
    assert failed.status == "failed"
    assert "accuracy 95.00% < 96.00%" in failed.reasons[0]
    assert "includes the limit" in failed.reasons[0]
    assert "parse rate 100.00% >= 99.00%" in failed.reasons[1]


def test_a_large_drop_fails(result_with) -> None:
    verdict = gate(result_with(200, range(30)), drop(0.05), baseline=result_with(200, range(4)))

    assert verdict.status == "failed"
    assert "a drop of 13.00 points" in verdict.reasons[0]
    assert "the change is significant" in verdict.reasons[0]


def test_a_drop_that_is_not_significant_is_undecided(result_with) -> None:
    verdict = gate(result_with(20, range(3)), drop(0.05), baseline=result_with(20, range(1)))

    assert verdict.status == "undecided"
    assert "not significant" in verdict.reasons[0]
    assert "more inputs" in verdict.reasons[0]


def test_a_gain_passes(result_with) -> None:
    verdict = gate(result_with(50, range(1)), drop(0.0), baseline=result_with(50, range(9)))

    assert verdict.status == "passed"
    assert "a gain of 16.00 points" in verdict.reasons[0]
    assert "a drop of 0.00 points is allowed" in verdict.reasons[0]


def test_only_shared_inputs_are_compared(result_with) -> None:
    baseline = result_with(10, range(0))
    wider = result_with(40, range(20, 40))

    assert gate(wider, drop(0.0), baseline=baseline).status == "passed"


def test_a_baseline_of_other_inputs_or_another_truth_is_refused(result_with) -> None:
    result = result_with(10, range(1))
    other = dataclasses.replace(
        result,
        predictions=tuple(
            dataclasses.replace(p, text=f"other {p.index}") for p in result.predictions
        ),
    )

    with pytest.raises(InputError, match="no evaluated input"):
        gate(result, drop(0.1), baseline=other)
    with pytest.raises(ConfigError, match="same --truth"):
        gate(
            result,
            drop(0.1),
            baseline=dataclasses.replace(result, truth="teacher"),
        )
