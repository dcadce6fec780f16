import math

import pytest

from prompt_distillation.data.intervals import wilson_interval
from prompt_distillation.evaluation.metrics import (
    agreement,
    confusion_matrix,
    macro_f1,
    paired_test,
    per_label_results,
    summarise,
    three_truths,
    worst_labels,
)


def test_matrix_counts_to_the_cell(make_prediction) -> None:
    counts = {("fr", "fr"): 5, ("fr", "de"): 2, ("de", "de"): 3, ("de", None): 1, (None, "fr"): 4}
    predictions = [
        make_prediction(truth, answer)
        for (truth, answer), count in counts.items()
        for _ in range(count)
    ]

    matrix = confusion_matrix(predictions, ["fr", "de", "zh"])

    assert matrix.labels == ("de", "fr", "zh", "?")
    assert matrix.matrix_2d == ((3, 0, 0, 1), (2, 5, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    assert matrix.matrix_dict["fr"] == {"de": 2, "fr": 5, "zh": 0, "?": 0}


def test_unknown_truth_is_left_out_and_no_answer_is_wrong(make_prediction) -> None:
    predictions = [
        make_prediction("fr", "fr"),
        make_prediction("fr", None),
        make_prediction(None, "fr"),
    ]

    summary = summarise(predictions)

    assert (summary.evaluated, summary.correct, summary.left_out) == (2, 1, 1)
    assert (summary.predicted, summary.unparseable, summary.total_samples) == (2, 1, 3)
    assert summary.accuracy == 0.5


def test_labels_are_sorted_from_worst_to_best_with_examples(make_prediction) -> None:
    predictions = [make_prediction("fr", "fr", index=i) for i in range(4)]
    predictions += [make_prediction("de", "fr", index=10 + i) for i in range(5)]
    predictions += [make_prediction("zh", "zh"), make_prediction("zh", "de", index=30)]
    matrix = confusion_matrix(predictions, ["fr", "de", "zh"])

    results = per_label_results(matrix, predictions)

    assert list(results) == ["de", "zh", "fr"]
    assert [example.index for example in results["de"].error_examples] == [10, 11, 12]
    assert results["fr"].precision == 4 / 9
    assert [worst.language for worst in worst_labels(results)] == ["de", "zh"]


def test_three_truths_are_kept_apart(make_prediction) -> None:
    predictions = [
        make_prediction("fr", "fr", teacher="fr", teacher_asked=True),
        make_prediction("fr", "fr", teacher="de", teacher_asked=True),  # only the student is right
        make_prediction("fr", "de", teacher=None, teacher_asked=True),  # the teacher said nothing
        make_prediction("fr", "fr"),  # the teacher was not asked
        make_prediction(None, "de", teacher="de", teacher_asked=True),  # no gold
    ]

    truths = three_truths(predictions)

    assert (truths.student_gold.correct, truths.student_gold.n) == (3, 4)
    assert truths.teacher_gold is not None
    assert (truths.teacher_gold.correct, truths.teacher_gold.n) == (1, 3)
    assert truths.student_teacher is not None
    assert (truths.student_teacher.correct, truths.student_teacher.n) == (2, 3)
    assert truths.student_against_teacher is not None
    assert truths.student_against_teacher.only_first_right == (1,)
    assert truths.student_against_teacher.only_second_right == ()


def test_without_teacher_there_is_one_truth(make_prediction) -> None:
    truths = three_truths([make_prediction("fr", "fr")])

    assert truths.teacher_gold is None
    assert truths.student_teacher is None
    assert truths.student_against_teacher is None


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
