"""Settings of improving a student: what is chosen, how much is paid for it, and when it ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.config import EngineConfig, InputConfig, Settings, block, option
from prompt_distillation.config.evaluate_config import DEFAULT_STUDENT
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImproveConfig(Settings):
    """Settings of `improve.py`."""

    student_path: Path = option(
        Path(DEFAULT_STUDENT),
        "the student to begin with: the folder of a training run, whose manifest names its dataset",
    )
    train_data_file: Path | None = option(
        None, "the dataset that the student was trained on; none: as its manifest says"
    )
    pool: Path | None = option(
        None, "inputs without labels to choose from, in any format of create_data.py"
    )
    inputs: InputConfig = block(InputConfig, omit=("max_samples",))
    write_inputs: int = option(
        0,
        "new inputs that the teacher writes in each round, from those that are hardest for the "
        "student; they join the pool",
        low=0,
    )
    select: Literal["uncertain", "random"] = option(
        "uncertain",
        "uncertain: inputs that the student is least sure of: its two most likely labels are "
        "closest in probability, or without labels its answer is least likely; random: any inputs",
    )
    inputs_per_round: int = option(200, "inputs that the teacher labels in each round", low=1)
    replay: float = option(
        1.0, "earlier training rows that are repeated for each new row", low=0, high=1000
    )
    max_rounds: int = option(5, "most rounds", low=1, high=1000)
    patience: int = option(
        1, "stop after this many rounds in a row without a gain above the noise", low=1
    )
    max_teacher_tokens: int | None = option(
        None, "tokens that the teacher may write in all rounds together; none: no limit", low=1
    )
    teacher_recipe: Path | None = option(
        None, "YAML file with flags of create_data.py that replace those the dataset was made with"
    )
    training_recipe: Path | None = option(
        None, "YAML file with flags of train_sft_trl.py that replace those of the student's run"
    )
    seed: int = option(0, "seed of random draws: inputs, and earlier training rows", low=0)
    output_dir: Path = option(
        Path("./models/improve"), "folder for the rounds and improve.json; it can be continued"
    )
    engine: EngineConfig = block(EngineConfig)

    def __post_init__(self) -> None:
        """Check that there is something to choose from, and who answers."""
        super().__post_init__()
        if self.pool is None and not self.write_inputs:
            raise ConfigError(
                "there is nothing to choose from; pass --pool FILE with unlabelled inputs, or "
                "--write_inputs N to let the teacher write new ones"
            )
        if self.engine.engine == "server":
            raise ConfigError(
                "--engine server serves one model, and each round has a student of its own; use "
                "vllm or transformers (the teacher keeps the engine that it labelled with)"
            )
