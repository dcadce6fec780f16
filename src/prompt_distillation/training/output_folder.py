"""The folder of a run: which run it belongs to, where it continues, and what may be replaced.

::

    models/RUN/
        run.json                 written first: what this run is, and which files it has written
        checkpoint-N/            every --save_steps, the last --save_total_limit of them
        adapter_model.safetensors, adapter_config.json, tokenizer files   (or a full model)
        loss.csv                 a line at each logged step, while the run is going on
        log_history.json, README.md, plots/
        training_manifest.json   written last: the run is finished

Only what ``run.json`` says a run has written is ever replaced or deleted. The final files are
written to a folder of their own and moved, so that a full disk or a kill never leaves half an
adapter beside a manifest.
"""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import read_json, refuse_unsafe_outputs, write_json
from prompt_distillation.data.locks import hold_lock
from prompt_distillation.data.training_files import (
    CARD_FILE,
    HISTORY_FILE,
    LOSS_FILE,
    MANIFEST_FILE,
    PLOTS_FOLDER,
    RUN_FILE,
)
from prompt_distillation.errors import (
    ConfigError,
    InputError,
    OutputExistsError,
    OutputWriteError,
    PromptDistillationError,
)

logger = logging.getLogger(__name__)

WRITER = "prompt-distillation train"
"""What ``run.json`` begins with: another program's file of that name does not."""

LOCK_FILE = ".lock"
_PARTIAL = ".final.partial"
_REPORTS = (HISTORY_FILE, LOSS_FILE, CARD_FILE, MANIFEST_FILE, PLOTS_FOLDER)

Identity = Mapping[str, Any]
"""What makes two runs the same: settings that shape the weights, and hashes of the inputs."""


class RunFolder:
    """The folder of one run, held by it."""

    def __init__(self, path: Path, identity: Identity, checkpoint: Path | None) -> None:
        self.path, self.checkpoint = path, checkpoint
        self._identity = dict(identity)
        self._files = _written(path)

    def begin(self) -> None:
        """Record what this run is; one that starts over clears what an older one has left."""
        if self.checkpoint is None:
            for name in sorted(self._files):
                if name.startswith("checkpoint-") or name in {*_REPORTS, _PARTIAL}:
                    self._remove(name)
        self._write()

    def add(self, *names: str) -> None:
        """Record files and folders that are about to be written."""
        if not self._files.issuperset(names):
            self._files |= set(names)
            self._write()

    def save_model(self, save: Callable[[Path], None], *, is_main: bool) -> None:
        """Let ``save`` write into a folder beside, then move its files to their names.

        ``save`` is given that folder and called in every process; the main one moves the files.
        """
        if is_main:
            self.add(_PARTIAL)
        partial = self.path / _PARTIAL
        save(partial)
        if not is_main:
            return
        names = {file.name for file in partial.iterdir()}
        for name in self._files - names - {*_REPORTS, _PARTIAL}:
            if not name.startswith("checkpoint-"):  # of the run that this one replaces
                self._remove(name)
        self.add(*names)
        for name in sorted(names):
            (partial / name).replace(self.path / name)
        self._remove(_PARTIAL)
        self._write()

    def _remove(self, name: str) -> None:
        remove(self.path / name)
        self._files.discard(name)

    def _write(self) -> None:
        record = {"written_by": WRITER, "run": self._identity, "files": sorted(self._files)}
        write_json(self.path / RUN_FILE, record)


@contextmanager
def hold_run_folder(
    path: Path,
    identity: Identity,
    *,
    inputs: list[Path],
    resume: str,
    overwrite: bool,
    is_main: bool,
) -> Iterator[RunFolder]:
    """Hold a run's folder while the block runs; nothing in it is changed yet.

    Raises:
        ConfigError: the folder holds an input or lies in one, or ``resume`` is no checkpoint.
        OutputExistsError: it holds a finished run, checkpoints of another one, or files that no
            run has written.
        OutputBusyError: another run is training into it.
    """
    _refuse_foreign(path, inputs)
    with hold_lock(path / LOCK_FILE) if is_main else nullcontext():
        checkpoint = choose_checkpoint(path, identity, resume=resume, overwrite=overwrite)
        yield RunFolder(path, identity, checkpoint)


def _refuse_foreign(path: Path, inputs: list[Path]) -> None:
    refuse_unsafe_outputs([path], inputs, is_ours=_is_ours)
    written = _written(path)
    for name in _REPORTS:
        if (path / name).exists() and name not in written:
            raise OutputExistsError(_foreign(path, name))
    # Whatever is called checkpoint-*, transformers may delete for --save_total_limit.
    for folder in path.glob("checkpoint-*"):
        if folder.name not in written:
            raise OutputExistsError(_foreign(path, folder.name))


def _foreign(path: Path, name: str) -> str:
    return (
        f"{path / name} was not written by a training run, and this one would replace it; move it "
        "away, or choose another --output_dir"
    )


def _is_ours(path: Path) -> bool:
    return path.is_dir() and (is_only_locked(path) or _record(path) is not None)


def is_only_locked(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock."""
    return {entry.name for entry in folder.iterdir()} == {LOCK_FILE}


def _record(path: Path) -> dict[str, Any] | None:
    """``run.json``, if it is one of ours."""
    record = read_record(path / RUN_FILE, writer=WRITER)
    return record if record and isinstance(record.get("run"), dict) else None


def read_record(file: Path, *, writer: str) -> dict[str, Any] | None:
    """What ``writer`` has recorded of a folder's ``files``; None where no such record is."""
    try:
        record = read_json(file)
    except InputError:
        return None
    ours = record.get("written_by") == writer and isinstance(record.get("files"), list)
    return record if ours else None


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _written(path: Path) -> set[str]:
    """Names in a folder that its run has written; none that lead out of it."""
    record = _record(path) or {"files": []}
    names = map(str, record["files"])
    return {name for name in names if Path(name).name == name and name not in {".", ".."}}


def _checkpoints(path: Path) -> list[tuple[int, Path]]:
    """``(step, folder)`` of everything named like a checkpoint, the newest first."""
    named = [
        (int(step), folder)
        for folder in path.glob("checkpoint-*")
        if (step := folder.name.removeprefix("checkpoint-")).isdecimal()
    ]
    return sorted(named, reverse=True)


def choose_checkpoint(
    path: Path, identity: Identity, *, resume: str, overwrite: bool
) -> Path | None:
    """Decide where training starts: None is the beginning.

    Raises:
        OutputExistsError: a finished run is there, or checkpoints of another one.
        ConfigError: ``resume`` names a folder that is no whole checkpoint.
    """
    if resume not in {"auto", "none"}:
        folder = Path(resume)
        damage = find_damage(folder)
        if damage is not None:
            raise ConfigError(
                f"--resume_from_checkpoint {resume}: no checkpoint there that training can "
                f"continue from ({damage}); auto finds the newest one in --output_dir"
            )
        return folder
    if overwrite:
        return None
    if (path / MANIFEST_FILE).exists():
        raise OutputExistsError(
            f"{path} already holds a finished run; pass --overwrite to replace it, or choose "
            "another --output_dir"
        )
    record = _record(path)
    if record is None or not (_written(path) - {RUN_FILE, LOCK_FILE}):
        return None
    if resume == "none":
        raise OutputExistsError(
            f"{path} holds checkpoints; pass --resume_from_checkpoint auto to continue, or "
            "--overwrite to start over"
        )
    before = record["run"]
    changed = [key for key in sorted({*identity, *before}) if identity.get(key) != before.get(key)]
    if changed:
        key = changed[0]
        raise OutputExistsError(
            f"{path} holds checkpoints of another run ({key} was {before.get(key)!r}, is "
            f"{identity.get(key)!r}); pass --overwrite to start over, or choose another "
            "--output_dir"
        )
    return last_whole_checkpoint(path)


def last_whole_checkpoint(path: Path) -> Path | None:
    """The newest checkpoint without damage; those that are passed over are named in the log."""
    for _, folder in _checkpoints(path):
        damage = find_damage(folder)
        if damage is None:
            return folder
        logger.warning("%s is damaged (%s) and is passed over", folder, damage)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where every file is there and whole.

    Files are opened, not read: what a kill or a full disk leaves is cut off at its end.
    """
    state = checkpoint / "trainer_state.json"
    try:
        step = json.loads(state.read_bytes()).get("global_step")
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except (OSError, ValueError, AttributeError):
        return "trainer_state.json is cut off or not a trainer's state"
    if not isinstance(step, int):
        return "trainer_state.json has no step"
    folders = [entry for entry in checkpoint.iterdir() if entry.is_dir()]
    weights = list(checkpoint.glob("*.safetensors"))
    # FSDP and DeepSpeed write shards in folders, which their own loaders check.
    if not folders:
        if not weights and not any(checkpoint.glob("pytorch_model*.bin")):
            return "it has no weights"
        missing = [n for n in ("optimizer.pt", "scheduler.pt") if not (checkpoint / n).is_file()]
        if missing:
            return f"{missing[0]} is missing"
    cut = [file.name for file in weights if not _is_whole_safetensors(file)]
    torch_files = (file for end in ("pt", "pth", "bin") for file in checkpoint.glob(f"*.{end}"))
    cut += [file.name for file in torch_files if not zipfile.is_zipfile(file)]
    return f"{cut[0]} is cut off" if cut else None


def _is_whole_safetensors(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


@contextmanager
def failed_writes(path: Path) -> Iterator[None]:
    """Raise a library's failed write below ``path`` as the user's error that it is."""
    try:
        yield
    except PromptDistillationError:
        raise
    except Exception as error:
        write_error = as_write_error(error, path)
        if write_error is None:
            raise
        raise write_error from error


def as_write_error(error: Exception, path: Path) -> OutputWriteError | None:
    """The user's error behind a library's failed write; None if it is not one.

    safetensors and torch.save raise errors of their own, not OSError, when a disk is full: torch
    2.13 says "unexpected pos" where its archive is shorter than what it has written.
    """
    text = str(error)
    full = (
        "No space left", "File too large", "Disk quota exceeded", "PytorchStreamWriter failed",
        "unexpected pos", "write error", "file write failed",
    )  # fmt: skip
    if not isinstance(error, OSError) and not any(part in text for part in full):
        return None
    reason = text.splitlines()[0] if text else type(error).__name__
    return OutputWriteError(
        f"cannot write to {path}: {reason}; free some space, then run the same command again"
    )
