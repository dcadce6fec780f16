"""Where a run goes on, whatever moment it was killed at."""

import json

import pytest

from prompt_distillation.errors import OutputExistsError
from prompt_distillation.training.manifest import run_identity
from prompt_distillation.training.outputs import append_losses, choose_checkpoint, start_losses

RUN = {"seed": 0}


def checkpoint(folder, step, text="{}"):
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(text)


def choose(folder, run=RUN):
    return choose_checkpoint(folder, run, resume="auto", overwrite=False)


def test_a_checkpoint_cut_off_while_it_was_written_is_passed_over(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, text='{"epoch": 1.')
    (tmp_path / "checkpoint-30").mkdir()
    assert choose(tmp_path) == tmp_path / "checkpoint-10"


def test_a_run_killed_while_it_saved_its_result_goes_on(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert choose(tmp_path) is None
    checkpoint(tmp_path, 10)
    assert choose(tmp_path) == tmp_path / "checkpoint-10"
    with pytest.raises(OutputExistsError, match="of another run"):
        choose(tmp_path, {"seed": 1})
    (tmp_path / "run.json").unlink()
    with pytest.raises(OutputExistsError, match="already holds a model"):
        choose(tmp_path)


def test_a_run_that_ran_out_of_memory_goes_on_with_recomputed_activations(tmp_path):
    before = RUN | {"gradient_checkpointing": None}  # as an earlier release wrote it
    (tmp_path / "run.json").write_text(json.dumps(before))
    checkpoint(tmp_path, 10)
    record = {"seed": 0, "gradient_checkpointing": True, "train_file": "rows.jsonl"}
    (tmp_path / "rows.jsonl").write_text("{}")
    run = run_identity(record, train_file=tmp_path / "rows.jsonl", eval_file=None, model="m")
    assert "gradient_checkpointing" not in run
    assert choose(tmp_path, RUN) == tmp_path / "checkpoint-10"


def test_the_table_of_losses_grows_and_a_resumed_run_drops_what_was_lost(tmp_path):
    log = [{"step": 1, "loss": 3.0, "grad_norm": 1.0}, {"step": 2, "loss": 2.0}]
    start_losses(tmp_path, [])
    for entry in log:
        append_losses(tmp_path, entry)
    assert (tmp_path / "loss.csv").read_text().splitlines()[1:] == ["1,,3.0,,,1.0", "2,,2.0,,,"]
    start_losses(tmp_path, log[:1])
    assert (tmp_path / "loss.csv").read_text().splitlines()[1:] == ["1,,3.0,,,1.0"]
