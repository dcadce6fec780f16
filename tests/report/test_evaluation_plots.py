from pathlib import Path

import numpy as np
from matplotlib.image import imread

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
