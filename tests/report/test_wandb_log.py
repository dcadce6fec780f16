import json
from dataclasses import replace
from pathlib import Path

import wandb
from training.wandb_file import history, records, summary

from prompt_distillation.report.wandb_log import ERROR_COLUMNS, log_to_wandb


def test_an_evaluation_is_read_back_from_the_file_of_its_run(
    make_result, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    scored = make_result(20, wrong=[3], scored=True)
    result = replace(make_result(20, wrong=[3], unparsed=[4]), confidence=scored.confidence)

    folder = Path(log_to_wandb(result, name="test"))
    wandb.teardown()  # its process, which may still be writing

    assert folder.is_relative_to(tmp_path)
    (path,) = folder.parent.glob("*.wandb")
    found = summary(path)
    assert found["eval/accuracy"] == 0.9
    assert found["eval/accuracy_low"] < 0.9 < found["eval/accuracy_high"]
    assert (found["eval/evaluated"], found["eval/truth"]) == (20, "gold")
    assert found["eval/parse_rate"] == 0.95
    assert (
        found["eval/expected_calibration_error"]
        == scored.confidence.calibration.expected_calibration_error
    )
    assert found["eval/cascade_student_share"] == scored.confidence.cascade.student_share
    (run,) = [record.run for record in records(path) if record.HasField("run")][:1]
    assert (run.display_name, run.job_type) == ("test", "evaluation")
    (logged,) = history(path)
    errors = table(folder, logged["eval/errors.path"])
    assert errors["columns"] == list(ERROR_COLUMNS)
    assert [(row[0], row[2], row[3]) for row in errors["data"]] == [(3, "de", "fr"), (4, "ot", "?")]
    # W&B keeps the counts behind the chart as a table.
    matrix = {
        tuple(row[:2]): row[2]
        for row in table(folder, logged["eval/confusion_matrix_table.path"])["data"]
    }
    assert matrix["de", "de"] == 3
    assert matrix["de", "fr"] == matrix["ot", "?"] == 1
    assert sum(matrix.values()) == 20


def test_free_text_logs_its_similarity(make_text_result, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")

    folder = Path(log_to_wandb(make_text_result(references=3, total=4), name="test"))
    wandb.teardown()

    (path,) = folder.parent.glob("*.wandb")
    found = summary(path)
    assert (found["eval/rouge_l"], found["eval/compared"]) == (0.5, 3)
    assert "eval/accuracy" not in found


def table(folder: Path, path: str) -> dict:
    """The rows of a table that a run logged; they lie in a file of their own."""
    return json.loads((folder / path).read_text(encoding="utf-8"))
