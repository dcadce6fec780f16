from prompt_distillation.evaluation.scoring import (
    confusion_matrix,
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
