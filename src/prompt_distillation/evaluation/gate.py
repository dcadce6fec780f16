"""The deployment gate: does a model meet the thresholds, and if not, is the shortfall significant?

A drop is judged on the inputs that both results share, by McNemar's exact test. A drop that is
larger than allowed but not significant is neither a pass nor a failure: it is undecided.
"""

from collections.abc import Iterator

from prompt_distillation.config.evaluate_config import GateConfig
from prompt_distillation.data.results import (
    GateStatus,
    GateVerdict,
    PairedTest,
    Prediction,
    Result,
)
from prompt_distillation.data.splits import input_key
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.evaluation.metrics import paired_test


def check_gate(result: Result, rules: GateConfig, *, baseline: Result | None) -> GateVerdict | None:
    """Hold ``result`` against ``rules``; None where there are none.

    Raises:
        ConfigError: ``result`` has no accuracy to hold against a rule, or the baseline was judged
            by another truth.
        InputError: the baseline shares no input with ``result``.
    """
    verdicts = [*_check_shares(result, rules)]
    if rules.max_drop is not None and baseline is not None:
        verdicts.append(_check_drop(result, baseline, rules.max_drop, where=str(rules.baseline)))
    if not verdicts:
        return None
    statuses = {status for status, _ in verdicts}
    worst: GateStatus = (
        "failed" if "failed" in statuses else "undecided" if "undecided" in statuses else "passed"
    )
    return GateVerdict(status=worst, reasons=tuple(reason for _, reason in verdicts))


def _check_shares(result: Result, rules: GateConfig) -> Iterator[tuple[GateStatus, str]]:
    summary = result.summary
    if rules.min_accuracy is not None:
        interval = summary.accuracy_interval
        if summary.accuracy is None or interval is None:
            raise ConfigError(
                f"--min_accuracy needs inputs with a {result.truth} answer; none has one "
                "(--ground_truth_file gives them)"
            )
        meets = summary.accuracy >= rules.min_accuracy
        noise = interval.low <= rules.min_accuracy <= interval.high
        yield (
            "passed" if meets else "failed",
            f"accuracy {summary.accuracy:.2%} {'>=' if meets else '<'} {rules.min_accuracy:.2%}"
            f" (n={summary.evaluated}, 95% CI {interval.low:.2%}-{interval.high:.2%}"
            + (", which includes the limit)" if noise else ")"),
        )
    if rules.min_parse_rate is not None:
        meets = summary.parse_rate >= rules.min_parse_rate
        yield (
            "passed" if meets else "failed",
            f"parse rate {summary.parse_rate:.2%} {'>=' if meets else '<'} "
            f"{rules.min_parse_rate:.2%} ({summary.unparseable} of {summary.total_samples} "
            "without an answer)",
        )


def _check_drop(
    result: Result, baseline: Result, max_drop: float, *, where: str
) -> tuple[GateStatus, str]:
    test = compare_results(baseline, result, where=where)
    drop = (len(test.only_first_right) - len(test.only_second_right)) / test.n
    significant = test.is_significant
    status: GateStatus = "passed" if drop <= max_drop else "failed" if significant else "undecided"
    told = "significant" if significant else "not significant"
    change = f"a drop of {drop * 100:.2f}" if drop > 0 else f"a gain of {-drop * 100:.2f}"
    return status, (
        f"{change} points against the baseline, a drop of {max_drop * 100:.2f} points is allowed; "
        f"the change is {told} "
        f"(n={test.n}, {len(test.only_first_right)} lost, {len(test.only_second_right)} won, "
        f"McNemar p={test.p_value:.3g})"
        + ("; evaluate more inputs to decide" if status == "undecided" else "")
    )


def compare_results(first: Result, second: Result, *, where: str) -> PairedTest:
    """McNemar's test of two results on the inputs that both judged.

    Positions in the test are those among ``second``'s predictions.

    Raises:
        ConfigError: they were judged by different truths.
        InputError: they share no judged input.
    """
    if first.truth != second.truth:
        raise ConfigError(
            f"{where} was measured against {first.truth} answers, this run against {second.truth} "
            "answers; pass the same --truth to both"
        )
    answers = {
        _question(item): item.predicted
        for item in first.predictions
        if item.ground_truth is not None
    }
    keys = [_question(item) for item in second.predictions]
    shared = [key if key in answers else None for key in keys]
    if not any(shared):
        raise InputError(
            f"{where} has no evaluated input in common with this run; pass a result on the same "
            "test file"
        )
    return paired_test(
        [key[-1] if key else None for key in shared],
        [answers[key] if key else None for key in shared],
        [item.predicted for item in second.predictions],
    )


def _question(item: Prediction) -> tuple[bytes, str, str | None]:
    """What makes two predictions answers to one question; its last part is the truth."""
    key = input_key(item.text, item.history, duplicates="exact")
    return key, item.group, item.ground_truth
