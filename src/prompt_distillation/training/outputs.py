"""What a run leaves in its folder, and how the next one finds it.

::

    models/RUN/
        run.json                 written first: what this run is, for a resume of the same
        checkpoint-N/            every --save_steps, the last --save_total_limit of them
        adapter_model.safetensors, adapter_config.json, tokenizer files   (or a full model)
        loss.csv                 a line at each look while the run goes on, put in order at its end
        log_history.json
        README.md                the model card
        training_manifest.json   written last: the run is finished

The final files are written to a folder of their own and moved, so that a full disk or a kill never
leaves half an adapter beside a manifest.
"""

import csv
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from prompt_distillation.data.files import atomic_writer, read_json, write_json
from prompt_distillation.data.run_files import (
    CARD_FILE,
    HISTORY_FILE,
    LOSS_FILE,
    MANIFEST_FILE,
    RUN_FILE,
)
from prompt_distillation.errors import ConfigError, OutputExistsError, OutputWriteError
from prompt_distillation.training.manifest import NOT_IDENTITY

logger = logging.getLogger(__name__)

_PARTIAL = ".final.partial"

LOSS_COLUMNS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    checkpoints = [
        folder
        for folder in output_dir.glob("checkpoint-*")
        if folder.name.rpartition("-")[2].isdigit() and _is_whole(folder)
    ]
    return max(checkpoints, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether its writer lived to the end: the trainer's state comes last, and JSON shows a cut."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def choose_checkpoint(
    output_dir: Path, run: Mapping[str, Any], *, resume: str, overwrite: bool
) -> Path | None:
    """Decide where training starts: None is the beginning.

    Args:
        output_dir: of this run; may not exist yet.
        run: what this run is: settings and hashes of its inputs.
        resume: ``auto`` (the newest checkpoint of the same run), ``none``, or a checkpoint.
        overwrite: start anew over whatever is there.

    Raises:
        OutputExistsError: a finished run is there, or checkpoints of another one.
        ConfigError: ``resume`` names a folder that is no checkpoint.
    """
    if resume not in {"auto", "none"}:
        folder = Path(resume)
        if not (folder / "trainer_state.json").is_file():
            raise ConfigError(
                f"--resume_from_checkpoint {resume}: no checkpoint there (auto finds the newest in "
                "--output_dir)"
            )
        return folder
    if overwrite:
        return None
    if (output_dir / MANIFEST_FILE).exists():
        raise OutputExistsError(
            f"{output_dir} already holds a finished run; pass --overwrite to replace it, or "
            "choose another --output_dir"
        )
    checkpoint = last_checkpoint(output_dir)
    # With a run.json a model is what a run leaves that was killed while it saved its result.
    holds_model = any((output_dir / n).exists() for n in ("config.json", "adapter_config.json"))
    if holds_model and not (output_dir / RUN_FILE).exists():
        raise OutputExistsError(
            f"{output_dir} already holds a model; choose another --output_dir (or --overwrite)"
        )
    if checkpoint is None and not holds_model:
        return None
    if resume == "none":
        raise OutputExistsError(
            f"{output_dir} holds checkpoints; pass --resume_from_checkpoint auto to go on, or "
            "--overwrite to start anew"
        )
    before = read_json(output_dir / RUN_FILE)
    keys = {*run, *before} - NOT_IDENTITY  # what is one may have changed since
    changed = sorted(key for key in keys if run.get(key) != before.get(key))
    if changed:
        key = changed[0]
        raise OutputExistsError(
            f"{output_dir} holds checkpoints of another run ({key} was {before.get(key)!r}, is "
            f"{run.get(key)!r}); pass --overwrite to start anew, or choose another --output_dir"
        )
    return checkpoint


def prepare_folder(output_dir: Path, run: Mapping[str, Any], *, fresh: bool) -> None:
    """Make the folder and say in it what run this is; a fresh run clears an older one's files.

    Raises:
        OutputWriteError: it cannot be written.
    """
    if fresh and output_dir.is_dir():
        for name in (MANIFEST_FILE, HISTORY_FILE, LOSS_FILE):
            (output_dir / name).unlink(missing_ok=True)
        for folder in output_dir.glob("checkpoint-*"):
            shutil.rmtree(folder)
        shutil.rmtree(output_dir / _PARTIAL, ignore_errors=True)
    write_json(output_dir / RUN_FILE, dict(run))


def save_final(output_dir: Path, save: Callable[[Path], None], *, is_main: bool) -> None:
    """Let ``save`` write into a folder beside, then move its files to their names.

    Args:
        output_dir: where they belong.
        save: writes model and tokenizer into the folder it is given; every process calls it.
        is_main: whether this process moves the files.
    """
    partial = output_dir / _PARTIAL
    save(partial)
    if not is_main:
        return
    for file in sorted(partial.iterdir()):
        file.replace(output_dir / file.name)
    partial.rmdir()


def save_card(output_dir: Path, card: str) -> None:
    """Write the model card."""
    with atomic_writer(output_dir / CARD_FILE) as file:
        file.write(card)


def save_history(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the log as JSON, and the losses as a CSV with a row per step."""
    write_json(output_dir / HISTORY_FILE, list(history))
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        by_step.setdefault(int(entry["step"]), {}).update(_loss_row(entry))
    with atomic_writer(output_dir / LOSS_FILE) as file:
        writer = _loss_writer(file)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(by_step.items()))


def start_losses(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Begin the CSV of a run that starts, or goes on after ``history``."""
    with atomic_writer(output_dir / LOSS_FILE) as file:
        _loss_writer(file).writeheader()
        _loss_writer(file).writerows(map(_loss_row, history))


def append_losses(output_dir: Path, entry: Mapping[str, Any]) -> None:
    """Add a line for an entry of the log, at once readable by others."""
    with (output_dir / LOSS_FILE).open("a", encoding="utf-8") as file:
        _loss_writer(file).writerow(_loss_row(entry))


def _loss_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in LOSS_COLUMNS if name in entry}


def _loss_writer(file: IO[str]) -> "csv.DictWriter[str]":
    return csv.DictWriter(file, fieldnames=LOSS_COLUMNS, lineterminator="\n")


def as_write_error(error: Exception, output_dir: Path) -> OutputWriteError | None:
    """The user's error behind a library's failed write; None if it is not one.

    safetensors and torch.save raise errors of their own, not OSError, when a disk is full.
    """
    text = str(error)
    full = ("No space left", "Disk quota exceeded", "PytorchStreamWriter failed", "write error")
    if not isinstance(error, OSError) and not any(part in text for part in full):
        return None
    reason = text.splitlines()[0] if text else type(error).__name__
    return OutputWriteError(
        f"cannot write to {output_dir}: {reason}; free some space, then run the same command again "
        "(it goes on at the last checkpoint)"
    )
