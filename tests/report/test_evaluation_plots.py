from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from prompt_distillation.evaluation.metrics import confusion_matrix, per_label_results
from prompt_distillation.report.evaluation_plots import PICTURES, is_own_picture, plot_all


def test_every_picture_is_drawn(make_result, comparison_of, tmp_path: Path) -> None:
    keyed = {
        "teacher": make_result(60, wrong=[3]),
        "student": make_result(60, wrong=[1, 2], unparsed=[7], teacher_wrong=[3]),
    }
    scored = make_result(60, wrong=[1, 2], teacher_wrong=[3], scored=True)
    results = {f"the {key}": result for key, result in keyed.items()}

    written = plot_all(results, comparison_of(keyed, scored=scored), tmp_path)

    assert tuple(path.stem for path in written) == PICTURES
    for path in written:
        picture = imread(path)
        assert min(picture.shape[:2]) > 200, path
        assert np.ptp(picture) > 0.5, path  # not an empty sheet
        assert is_own_picture(path)


def test_an_evaluation_by_scores_has_its_pictures_of_confidence(
    make_result, tmp_path: Path
) -> None:
    written = plot_all({"m": make_result(10, wrong=[1], scored=True)}, None, tmp_path)

    assert [path.stem for path in written][-3:] == ["calibration", "coverage", "cascade"]


def test_one_evaluation_alone_has_its_pictures(make_result, tmp_path: Path) -> None:
    written = plot_all({"m": make_result(10, wrong=[1])}, None, tmp_path)

    assert [path.stem for path in written] == [
        "accuracy_comparison", "comprehensive_metrics", "confusion_matrices", "prediction_heatmap",
    ]  # fmt: skip


def test_any_label_is_drawn_as_text(make_result, tmp_path: Path) -> None:
    """Not as a formula, not as a control character, and in a picture of bearable size."""
    labels = ["$5 to $10 \\frac{", "很好", "x" * 500, "line\nbreak", "\x1b[31mred"]
    labels += [f"intent {number}" for number in range(70)]
    result = make_result(150)
    predictions = tuple(
        replace(item, ground_truth=label, predicted=label)
        for item, label in zip(result.predictions, labels * 2, strict=True)
    )
    matrix = confusion_matrix(predictions, labels)
    result = replace(
        result,
        predictions=predictions,
        confusion_matrix=matrix,
        per_language_accuracy=per_label_results(matrix, predictions),
    )

    written = plot_all({"$x$": result, "很好": result}, None, tmp_path)

    assert len(written) == 4
    for path in written:
        assert max(imread(path).shape[:2]) < 5000, path
