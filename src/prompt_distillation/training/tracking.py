"""Where a run is logged: Weights & Biases (offline without a login), TensorBoard, or nowhere."""

import importlib.util
import logging
import netrc
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prompt_distillation.errors import ConfigError

logger = logging.getLogger(__name__)

PROJECT = "prompt-distillation"


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
    if "WANDB_MODE" not in os.environ and not has_wandb_login():
        os.environ["WANDB_MODE"] = "offline"
        logger.info(
            "no W&B login: recording offline (log in with `wandb login`, or pass --report_to none)"
        )


def has_wandb_login() -> bool:
    """Whether W&B would find a key without asking: in the environment or a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return bool(host and netrc.netrc(path).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def log_confusion(pairs: Sequence[tuple[str, str]]) -> None:
    """Log a table of right answer, given answer and count to the open W&B run, if there is one.

    Args:
        pairs: right and given answer of each held-out row that was answered.
    """
    import wandb

    if wandb.run is None or not pairs:
        return
    counts = sorted(Counter(pairs).items())
    table = wandb.Table(
        columns=["right", "given", "count"], data=[[*pair, count] for pair, count in counts]
    )
    wandb.run.log({"held_out_confusion": table})


def finish_tracking() -> str | None:
    """Close the open W&B run; returns the command that uploads it if it was recorded offline."""
    import wandb

    hint = sync_hint()
    if wandb.run is not None:
        wandb.run.finish()
    return hint


def sync_hint() -> str | None:
    """How to upload the run that was just recorded offline; None where there is nothing to do."""
    import wandb

    run = wandb.run
    if run is None or not run.offline:
        return None
    return f"wandb sync {run.sync_dir}"
