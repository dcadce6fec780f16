import math

import pytest

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.evaluation.statistics import agreement, macro_f1, paired_test


def test_wilson_interval_is_the_formula() -> None:
    correct, total, z = 1999, 2100, 1.959964
    share = correct / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))

    interval = wilson_interval(correct, total)

    assert interval is not None
    assert interval.low == pytest.approx(centre - half, abs=1e-6)
    assert interval.high == pytest.approx(centre + half, abs=1e-6)


def test_wilson_interval_of_no_errors_does_not_claim_certainty() -> None:
    interval = wilson_interval(20, 20)

    assert interval is not None
    assert interval.low < 0.9
    assert wilson_interval(0, 0) is None


def test_agreement_leaves_out_inputs_without_the_truth() -> None:
    result = agreement(["fr", None, "de", "fr"], ["fr", "fr", None, "de"])

    assert (result.n, result.correct, result.left_out) == (3, 1, 1)
    assert result.accuracy == pytest.approx(1 / 3)


def test_macro_f1_weighs_labels_alike() -> None:
    # fr: precision 3/4, recall 1 -> 6/7; de: never predicted -> 0.
    assert macro_f1(["fr", "fr", "fr", "de"], ["fr", "fr", "fr", "fr"]) == pytest.approx(3 / 7)


def test_mcnemar_is_the_binomial_of_the_discordant_pairs() -> None:
    truths = ["a"] * 20
    first = ["a"] * 10 + ["a"] * 8 + ["b"] * 2
    second = ["a"] * 10 + ["b"] * 8 + ["a"] * 2

    test = paired_test(truths, first, second)

    assert test.only_first_right == tuple(range(10, 18))
    assert test.only_second_right == (18, 19)
    assert (test.n, test.both_right, test.both_wrong) == (20, 10, 0)
    # P(X <= 2) + P(X >= 8) for X ~ B(10, 1/2)
    assert test.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)


def test_mcnemar_of_the_same_answers_is_one() -> None:
    assert paired_test(["a", None], ["a", "b"], ["a", "a"]).p_value == 1.0
