"""What a training method decides; each method is one module beside this one, named in `METHODS`.

Settings, encoded rows, adapter, checkpoints, resume, log, plots and manifest are the same for all.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.loading import PreparedRun
from prompt_distillation.training.methods.on_policy import OnPolicyDistillation
from prompt_distillation.training.methods.soft import SoftLabels


class TrainingMethod(Protocol):
    """One way to learn from the teacher, for one run. Made before any heavy library is loaded."""

    @property
    def trl_config(self) -> str:
        """The class of TRL whose fields are flags: ``SFTConfig`` or ``DistillationConfig``."""

    def defaults(self) -> Mapping[str, Any]:
        """Values of its fields that differ from ours for `sft`, where the user names none."""

    def files(self) -> list[Path]:
        """Files it reads beside the rows; their hashes are part of what makes two runs the same.

        Raises:
            InputError: one is missing; the message names the command that writes it.
        """

    def read(self, run: PreparedRun) -> None:
        """Read those files for the encoded rows; no weights are loaded yet.

        Raises:
            InputError: they do not fit the rows or the student.
        """

    def trainer(self, run: PreparedRun, **arguments: Any) -> Any:
        """The trainer, an `AnswerTrainer` or what has its public members.

        Args:
            run: as given to `read`.
            arguments: of `AnswerTrainer`.
        """

    def manifest(self) -> Mapping[str, Any]:
        """What it adds to the manifest of the run, as JSON can hold it."""


class SupervisedFineTuning:
    """``sft``: the teacher's answers, by cross-entropy."""

    trl_config = "SFTConfig"

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def defaults(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def files(self) -> list[Path]:
        """None."""
        return []

    def read(self, run: PreparedRun) -> None:
        """Nothing: the rows hold the answers."""

    def trainer(self, run: PreparedRun, **arguments: Any) -> Any:
        """See `AnswerTrainer`."""
        from prompt_distillation.training.methods.sft import AnswerTrainer

        return AnswerTrainer(
            train_dataset=run.rows.dataset(),
            eval_dataset=run.held_out.dataset() if run.held_out else None,
            **arguments,
        )

    def manifest(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}


METHODS: Mapping[str, Callable[[TrainConfig], TrainingMethod]] = {
    "sft": SupervisedFineTuning,
    "soft": SoftLabels,
    "on_policy": OnPolicyDistillation,
}
"""What ``--method`` calls a method -> the method, given the settings of a run."""
