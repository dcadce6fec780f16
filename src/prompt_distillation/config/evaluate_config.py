"""Settings of an evaluation: which model is measured, how it is asked, and against what."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.config import (
    EngineConfig,
    InputConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    block,
    option,
    share,
)
from prompt_distillation.errors import ConfigError

DEFAULT_STUDENT = "./models/prompt_distillation_trl"


@dataclass(frozen=True, kw_only=True)
class TestConfig(Settings):
    """The inputs that are evaluated, and what is known about them."""

    __test__ = False  # not a test of pytest's

    task: Path = option(Path("tasks/language"), "task folder, with task.yaml and the prompt")
    test_file: Path = option(
        Path("./example-data/multilingual.txt"), "inputs: .txt, .jsonl, .csv, .tsv or .parquet"
    )
    ground_truth_file: Path | None = option(
        None, "gold labels, one per input of the test file: one per line, or .jsonl with 'label'"
    )
    train_data_file: Path = option(
        Path("./data/prompt_distillation_lang.jsonl"),
        "the dataset that the model was trained on; says which inputs are held out and what the "
        "teacher answered",
    )
    split: Literal["held_out", "all"] = option(
        "held_out", "inputs that were not trained on (nor their group), or every input"
    )
    truth: Literal["auto", "gold", "teacher"] = option(
        "auto", "what accuracy is measured against; auto: gold labels where there are any"
    )
    inputs: InputConfig = block(InputConfig)


@dataclass(frozen=True, kw_only=True)
class GateConfig(Settings):
    """What a model must reach to be deployed."""

    min_accuracy: float | None = share(
        None, "gate: exit with 3 if the accuracy is below this share"
    )
    max_drop: float | None = share(
        None,
        "gate: exit with 3 if the accuracy is more than this share below --baseline; with 4 if "
        "that drop is not significant",
    )
    baseline: Path | None = option(None, "gate: an earlier result to compare with, for --max_drop")
    min_parse_rate: float | None = share(
        None, "gate: exit with 3 if fewer completions than this share hold an answer"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.max_drop is None) is not (self.baseline is None):
            raise ConfigError("--max_drop and --baseline belong together; pass both or neither")


@dataclass(frozen=True, kw_only=True)
class TextScoreConfig(Settings):
    """How texts are scored."""

    similarity_model: str | None = option(
        None,
        "texts: also compare answers with their references by the embeddings of this model of "
        "sentence-transformers, a hub name or a folder; needs the extra [text]",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """Settings of `evaluate.py` and of `evaluate`."""

    model: ModelConfig = block(
        ModelConfig, rename={"model_name": "model_path"}, model_name=DEFAULT_STUDENT
    )
    test: TestConfig = block(TestConfig)
    output_file: Path = option(
        Path("./evaluation_results.json"),
        "the result; an earlier one is kept as NAME.1.json, NAME.2.json, ...",
    )
    predictions_file: Path | None = option(
        None,
        "score these predictions instead of running a model: .txt with a label per line, .jsonl "
        "with 'predicted', an earlier result, or NAME.records.jsonl for the teacher's answers",
    )
    with_prompt: bool = option(False, "put the task's prompt before each input")
    thinking: bool = option(False, "the model reasons first; the answer follows </think>")
    decoding: Literal["free", "constrained", "scored"] = option(
        "free",
        "free: the model writes anything; constrained: its answer can only be a label, or JSON by "
        "the schema; scored: one pass gives the probability of each label, and nothing is written",
    )
    sampling: SamplingConfig = block(SamplingConfig)
    engine: EngineConfig = block(EngineConfig)
    gate: GateConfig = block(GateConfig)
    texts: TextScoreConfig = block(TextScoreConfig)
    quiet: bool = option(False, "print no line per input, only the tables")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding == "scored" and self.thinking:
            raise ConfigError(
                "--decoding scored and --thinking exclude each other: reasoning is not a label; "
                "drop one"
            )
