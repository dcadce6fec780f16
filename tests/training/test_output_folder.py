"""Whose a folder is, what a run may replace in it, and where it goes on after whatever kill."""

import json

import pytest
import torch
from safetensors.torch import save_file
from training.tiny_student import write_rows

from prompt_distillation.data.files import write_json
from prompt_distillation.errors import (
    ConfigError,
    OutputBusyError,
    OutputExistsError,
    OutputWriteError,
)
from prompt_distillation.training.manifest import (
    HeldOutAccuracy,
    answers_of,
    append_losses,
    run_identity,
    start_losses,
)
from prompt_distillation.training.output_folder import (
    WRITER,
    as_write_error,
    choose_checkpoint,
    find_damage,
    hold_run_folder,
)

RUN = {"seed": 0}


def checkpoint(folder, step):
    """A checkpoint as the trainer writes it, with tensors of one number."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file({"weight": torch.zeros(64)}, path / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(64)}, path / name)
    return path


def started(folder, *files, run=RUN):
    """The folder of a run that has written ``files``."""
    write_json(folder / "run.json", {"written_by": WRITER, "run": run, "files": list(files)})


def choose(folder, run=RUN):
    return choose_checkpoint(folder, run, resume="auto", overwrite=False)


def hold(folder, *, inputs=(), overwrite=False):
    return hold_run_folder(
        folder, RUN, inputs=list(inputs), resume="auto", overwrite=overwrite, is_main=True
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda path: (path / "trainer_state.json").write_text('{"epoch": 1.'), "cut off"),
        (lambda path: (path / "trainer_state.json").write_text("{}"), "has no step"),
        (lambda path: cut(path / "optimizer.pt"), "optimizer.pt is cut off"),
        (lambda path: cut(path / "scheduler.pt"), "scheduler.pt is cut off"),
        (lambda path: cut(path / "rng_state.pth"), "rng_state.pth is cut off"),
        (lambda path: cut(path / "adapter_model.safetensors"), "adapter_model.* is cut off"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "no weights"),
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    tmp_path, caplog, damage, reason
):
    started(tmp_path, "checkpoint-10", "checkpoint-20")
    whole, damaged = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    assert choose(tmp_path) == damaged
    damage(damaged)
    assert choose(tmp_path) == whole
    assert "checkpoint-20 is damaged" in caplog.text
    with pytest.raises(ConfigError, match=reason):
        choose_checkpoint(tmp_path, RUN, resume=str(damaged), overwrite=False)


def cut(file):
    """What a full disk or a kill leaves of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_shards_of_several_devices_are_left_to_their_loaders(tmp_path):
    path = checkpoint(tmp_path, 10)
    for name in ("optimizer.pt", "adapter_model.safetensors"):
        (path / name).unlink()
    (path / "optimizer_0").mkdir()
    assert find_damage(path) is None


def test_a_run_killed_while_it_saved_its_result_goes_on(tmp_path):
    started(tmp_path, "adapter_config.json")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert choose(tmp_path) is None
    checkpoint(tmp_path, 10)
    assert choose(tmp_path) == tmp_path / "checkpoint-10"
    with pytest.raises(OutputExistsError, match="of another run"):
        choose(tmp_path, {"seed": 1})


def test_recomputed_activations_are_the_same_run_and_another_number_of_processes_is_not(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 1)

    def identity(processes=1, **record):
        record |= {"seed": 0, "model_name": "m"}
        return run_identity(record, train_file=rows, eval_file=None, processes=processes)

    assert identity(gradient_checkpointing=True) == identity(gradient_checkpointing=None)
    assert identity(processes=2) != identity()


@pytest.mark.parametrize(
    "name",
    ["checkpoint-best/weights", "checkpoint-500/weights", "README.md", "loss.csv", "run.json",
     "plots/loss.png", "training_manifest.json", "notes.txt"],
)  # fmt: skip
@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_folder_is_refused_and_stays_as_it_is(tmp_path, name, overwrite):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"mine": true}')
    with (
        pytest.raises(OutputExistsError, match="not written by"),
        hold(tmp_path / "mine", overwrite=overwrite),
    ):
        pass
    assert [f for f in (tmp_path / "mine").rglob("*") if f.is_file()] == [file]
    assert file.read_text() == '{"mine": true}'


@pytest.mark.parametrize("name", ["checkpoint-500/weights", "README.md", "loss.csv", "plots/a.png"])
def test_in_our_own_folder_too_what_a_run_did_not_write_is_not_replaced(tmp_path, name):
    started(tmp_path, "checkpoint-10")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with (
        pytest.raises(OutputExistsError, match="was not written by a training run"),
        hold(tmp_path, overwrite=True),
    ):
        pass
    assert file.read_text() == "mine"


def test_a_fresh_run_clears_what_the_older_one_wrote_and_nothing_else(tmp_path):
    started(tmp_path, "checkpoint-10", "loss.csv", "adapter_model.safetensors", "old.bin")
    checkpoint(tmp_path, 10)
    for name in ("loss.csv", "notes.txt", "adapter_model.safetensors", "old.bin"):
        (tmp_path / name).write_text("older")

    def save(folder):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text("newer")

    with hold(tmp_path, overwrite=True) as folder:
        folder.begin()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {".lock", "run.json", "notes.txt", "adapter_model.safetensors", "old.bin"}
        folder.save_model(save, is_main=True)
    assert (tmp_path / "adapter_model.safetensors").read_text() == "newer"
    assert not (tmp_path / "old.bin").exists()
    assert (tmp_path / "notes.txt").read_text() == "older"


def test_a_record_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    started(tmp_path / "run", "../precious.txt", "..")
    with hold(tmp_path / "run", overwrite=True) as folder:
        folder.begin()
        folder.save_model(lambda path: path.mkdir(), is_main=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(tmp_path):
    with hold(tmp_path / "run"), pytest.raises(OutputBusyError, match="is held by process"):
        hold(tmp_path / "run").__enter__()
    with hold(tmp_path / "run"):
        pass


@pytest.mark.parametrize("where", ["data", "data/model", "data/model/run"])
def test_a_folder_that_holds_an_input_or_lies_in_one_is_refused(tmp_path, where):
    rows, model = tmp_path / "data" / "rows.jsonl", tmp_path / "data" / "model"
    model.mkdir(parents=True)
    write_rows(rows, 1)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with (
        pytest.raises(ConfigError, match="would overwrite"),
        hold(tmp_path / where.replace("data", "link", 1), inputs=[rows, model]),
    ):
        pass


def test_torchs_own_words_for_a_full_disk_are_understood(tmp_path):
    class Full:
        """A file on a disk with room for 100 bytes."""

        def __init__(self):
            self.size = 0

        def write(self, data):
            if self.size + len(data) > 100:
                raise OSError(28, "No space left on device")
            self.size += len(data)
            return len(data)

        def flush(self):
            """Nothing is held back."""

    with pytest.raises(Exception) as error:  # noqa: PT011 - whatever torch makes of it
        torch.save({"weight": torch.zeros(1000)}, Full())
    assert isinstance(as_write_error(error.value, tmp_path), OutputWriteError)
    assert as_write_error(ValueError("another"), tmp_path) is None


def test_the_table_of_losses_grows_and_a_resumed_run_drops_what_was_lost(tmp_path):
    log = [{"step": 1, "loss": 3.0, "grad_norm": 1.0}, {"step": 2, "loss": 2.0}]
    start_losses(tmp_path, [])
    for entry in log:
        append_losses(tmp_path, entry)
    assert (tmp_path / "loss.csv").read_text().splitlines()[1:] == ["1,,3.0,,,1.0", "2,,2.0,,,"]
    start_losses(tmp_path, log[:1])
    assert (tmp_path / "loss.csv").read_text().splitlines()[1:] == ["1,,3.0,,,1.0"]


def test_a_held_out_accuracy_says_of_how_many_rows_and_against_whom(tmp_path):
    shown = str(HeldOutAccuracy(before=0.0, correct=32, total=32))
    assert shown == "100.0% (95% CI 89.3-100.0%) of 32 rows, against the teacher's answers"
    assert answers_of(tmp_path / "rows.jsonl") == "given"
    assert "the given answers" in str(HeldOutAccuracy(before=0, correct=1, total=2, truth="given"))
    (tmp_path / "rows.records.jsonl").touch()
    assert answers_of(tmp_path / "rows.jsonl") == "teacher"
