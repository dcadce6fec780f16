"""The files of a finished training run: training writes them; costs, export and report read them.

What is in each of them: `prompt_distillation.training.output_folder`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_distillation.errors import InputError

RUN_FILE = "run.json"
MANIFEST_FILE = "training_manifest.json"
HISTORY_FILE = "log_history.json"
LOSS_FILE = "loss.csv"
CARD_FILE = "README.md"
PLOTS_FOLDER = "plots"

TEACHER, GIVEN = "teacher", "given"
"""Whose answers a student learns: those of a labelling run, or of rows from elsewhere, e.g. gold.
"""

History = Sequence[Mapping[str, Any]]
"""What the trainer logged, oldest first; each entry has a ``step``."""


def read_history(run_folder: Path) -> History | None:
    """What a run logged; None where it has not finished, or where no run was."""
    path = run_folder / HISTORY_FILE
    if not path.is_file():
        return None
    try:
        history = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and "step" in entry for entry in history
    ):
        raise InputError(f"{path}: not a log of training; each entry must have a step")
    return history
