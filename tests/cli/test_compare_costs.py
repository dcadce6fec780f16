"""What a comparison's bill knows of labelling and training."""

import json
import logging
from pathlib import Path

import pytest
from labelling.scripted import QUIET, ScriptedEngine, make_job, write_inputs

from prompt_distillation.cli.compare_costs import training_cost
from prompt_distillation.data.dataset_files import Shard
from prompt_distillation.evaluation.compare_config import CompareConfig
from prompt_distillation.labelling.run import create_dataset, label_one_shard, merge_shards


def cost_of(folder: Path, **options) -> float:
    """With an hour of labelling and half an hour of training, at 2 an hour."""
    manifest = folder / "out.manifest.json"
    if manifest.exists():
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 3600}))
    (folder / "training_manifest.json").write_text('{"result": {"seconds": 1800}}')
    config = CompareConfig.of(
        student_path=str(folder), train_data_file=folder / "out.jsonl", price_per_hour=2, **options
    )
    return training_cost(config)


def test_the_hours_are_those_of_the_manifests(tmp_path: Path, caplog) -> None:
    write_inputs(tmp_path, 10)
    create_dataset(make_job(tmp_path), ScriptedEngine().open, overwrite=False, reporting=QUIET)
    caplog.clear()

    assert cost_of(tmp_path) == pytest.approx(3.0)
    assert not caplog.records
    assert cost_of(tmp_path, training_cost=7) == 7


def test_hours_that_no_manifest_holds_are_told(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert cost_of(tmp_path) == pytest.approx(1.0)
    assert "does not say how long it took" in caplog.text

    write_inputs(tmp_path, 10)
    for index in range(2):
        shard = make_job(tmp_path, shard=Shard(index=index, count=2))
        label_one_shard(shard, ScriptedEngine().open, overwrite=False, reporting=QUIET)
    merge_shards(shard, overwrite=False, reporting=QUIET)
    with caplog.at_level(logging.WARNING):
        cost_of(tmp_path)
    assert "made 0 of 1" in caplog.text
