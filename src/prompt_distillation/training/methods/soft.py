"""``soft``: the teacher's probabilities of its answers' tokens, or of the labels.

No teacher is loaded: labelling has kept what is needed (``create_data.py --top_logprobs 20``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.answer_logprobs import (
    LogprobsFile,
    open_logprobs,
    vocabulary_sha256,
)
from prompt_distillation.data.files import sibling
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.training.loading import PreparedRun

if TYPE_CHECKING:
    from prompt_distillation.training.methods.soft_targets import SoftTargets

REFUSED = {
    "packing": "packed rows are cut from the probabilities that belong to them",
    "label_smoothing_factor": "the teacher's probabilities are what the labels are smoothed with",
}
"""Fields of SFTConfig that do not go with this method, and why."""


class SoftLabels:
    """The method ``soft``, see `TrainingMethod`."""

    trl_config = "SFTConfig"

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._path = sibling(config.train_file, "logprobs")
        self._kind = ""
        self._targets: SoftTargets | None = None

    def defaults(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def files(self) -> list[Path]:
        """The log-probabilities beside the rows.

        Raises:
            InputError: labelling kept none.
            ConfigError: more answers are trained than there are probabilities of.
        """
        if self._config.assistant_turns == "all":
            raise ConfigError(
                "--assistant_turns all does not go with --method soft: the teacher's probabilities "
                "are known of the last answer only"
            )
        if not self._path.is_file():
            raise InputError(
                f"--method soft reads the teacher's log-probabilities from {self._path}, which is "
                f"not there; run the command that wrote {self._config.train_file} again with "
                "--top_logprobs 20 --overwrite: python create_data.py --output_file "
                f"{self._config.train_file} --top_logprobs 20 --overwrite ..."
            )
        return [self._path]

    def read(self, run: PreparedRun) -> None:
        """Lay out what the teacher says of each token of each row.

        Raises:
            InputError: the file belongs to other rows, or to another vocabulary.
            ConfigError: an option that does not go with the method.
        """
        from prompt_distillation.training.methods.soft_targets import read_targets

        for name, reason in REFUSED.items():
            if run.options.get(name):
                raise ConfigError(f"--{name} does not go with --method soft: {reason}")
        file = open_logprobs(self._path)
        self._kind = self._config.soft.soft_targets
        if self._kind == "auto":
            self._kind = "labels" if file.labels else "tokens"
        if self._kind == "labels" and not file.labels:
            raise InputError(
                f"{self._path} holds no labels: the task's answers are texts; use "
                "--soft_targets tokens, with a student of the teacher's vocabulary"
            )
        if self._kind == "tokens":
            self._check_vocabulary(file, run.tokenizer)
        self._targets = read_targets(file, run, by_labels=self._kind == "labels")

    def _check_vocabulary(self, file: LogprobsFile, tokenizer: Any) -> None:
        if file.vocabulary_sha256 == vocabulary_sha256(tokenizer):
            return
        what = (
            "the teacher's tokens are not the student's: the two have different vocabularies"
            if file.vocabulary_sha256
            else "a server labelled the rows, and names no token ids"
        )
        instead = (
            "--soft_targets labels, which needs no common vocabulary"
            if file.labels
            else "--method sft"
        )
        raise InputError(
            f"{self._path}: {what}; train a student that shares the teacher's tokenizer, or use "
            f"{instead}"
        )

    def trainer(self, run: PreparedRun, **arguments: Any) -> Any:
        """See `SoftTrainer`."""
        from prompt_distillation.training.methods.soft_trainer import ROW, SoftTrainer

        assert self._targets is not None, "read() comes first"
        rows = run.rows.dataset()
        return SoftTrainer(
            train_dataset=rows.add_column(ROW, list(range(len(rows)))),
            eval_dataset=run.held_out.dataset() if run.held_out else None,
            targets=self._targets.rows,
            weight=self._config.soft.soft_weight,
            temperature=self._config.soft.soft_temperature,
            **arguments,
        )

    def manifest(self) -> Mapping[str, Any]:
        """What the targets are, and of how many tokens there are some."""
        counts = self._targets.counts() if self._targets else {}
        return {"targets": self._kind, **counts}
