"""Where a run is logged: Weights & Biases (offline without a login), TensorBoard, or nowhere."""

import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prompt_distillation.errors import ConfigError
from prompt_distillation.machine import wandb_login

logger = logging.getLogger(__name__)

PROJECT = "prompt-distillation"

OTHER = "any other answer"
MOST_LABELS = 100
"""Beyond, answers are free text, and a matrix of them says nothing."""


def prepare_tracking(trackers: Sequence[str], *, output_dir: Path) -> None:
    """Set the environment so that no tracker ever asks a question.

    Variables that the user has set win. Without a login W&B records offline below ``output_dir``.

    Raises:
        ConfigError: TensorBoard is asked for and not installed.
    """
    if "tensorboard" in trackers and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--report_to tensorboard needs the package: pip install -e '.[tensorboard]'"
        )
    if "wandb" not in trackers:
        return
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    os.environ.setdefault("WANDB_DIR", str(output_dir))
    # The run's own lines and the summary of this command say it all.
    os.environ.setdefault("WANDB_SILENT", "true")
    if "WANDB_MODE" not in os.environ and wandb_login() is None:
        os.environ["WANDB_MODE"] = "offline"
        logger.info(
            "no W&B login: recording offline (log in with `wandb login`, or pass --report_to none)"
        )


def log_end(pairs: Sequence[tuple[str, str]], *, notes: Mapping[str, str]) -> None:
    """Log the held-out answers as tables to the open W&B run, if there is one."""
    import wandb

    if wandb.run is None:
        return
    wandb.run.summary.update(notes)
    if not pairs:
        return
    counts = [[*pair, count] for pair, count in sorted(Counter(pairs).items())]
    tables = {"held_out_answers": wandb.Table(columns=["right", "given", "count"], data=counts)}
    # Answers that are right for no row share the last label.
    labels = [*sorted({right for right, _ in pairs}), OTHER]
    place = {label: number for number, label in enumerate(labels)}
    if len(labels) <= MOST_LABELS:
        tables["held_out_confusion"] = wandb.plot.confusion_matrix(
            y_true=[place[right] for right, _ in pairs],
            preds=[place.get(given, place[OTHER]) for _, given in pairs],
            class_names=labels,
        )
    wandb.run.log(tables)


def finish_tracking() -> str | None:
    """Close the open W&B run; returns the command that uploads it if it was recorded offline."""
    import wandb

    run = wandb.run
    if run is None:
        return None
    hint = f"wandb sync {run.sync_dir}" if run.offline else None
    run.finish()
    return hint


def tensorboard_folder(output_dir: Path) -> str:
    """Where transformers writes TensorBoard's files: a folder for each run below this one."""
    return os.environ.get("TENSORBOARD_LOGGING_DIR", str(output_dir / "runs"))
