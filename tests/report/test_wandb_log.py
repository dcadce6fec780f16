from pathlib import Path

from prompt_distillation.report.wandb_log import log_to_wandb


def test_an_evaluation_is_recorded_offline(make_result, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")

    folder = Path(log_to_wandb(make_result(20, wrong=[3], unparsed=[4]), name="test"))

    assert folder.is_relative_to(tmp_path)
    assert list(folder.parent.glob("*.wandb"))
    tables = [path.read_text() for path in folder.rglob("*.table.json")]
    errors = next(table for table in tables if "predicted" in table)
    assert "Guten Morgen" in errors
    assert "Good morning" not in errors
