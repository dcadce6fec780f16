"""Settings of a judge: whose answers are compared, by which model, and by which rubric."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.config import (
    EngineConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    block,
    option,
)
from prompt_distillation.config.label_config import VoteConfig
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Settings):
    """Settings of `judge.py` and of `judge`."""

    student_file: Path = option(
        Path("./evaluation_results.json"), "the student's answers: a result of evaluate.py"
    )
    teacher_file: Path = option(
        Path("./comparison/teacher.json"),
        "the teacher's answers to the same inputs: a result of evaluate.py or compare.py",
    )
    task: Path | None = option(
        None, "task folder whose rubric.md is used, if it has one; none: the built-in rubric"
    )
    rubric_file: Path | None = option(
        None, "the rubric: a Markdown file with a heading `## name` for each dimension"
    )
    human_verdicts_file: Path | None = option(
        None,
        "verdicts of a person, csv or jsonl: `index` of the input, and `verdict`, which is "
        "student, teacher or tie",
    )
    output_dir: Path = option(Path("./judge"), "folder for judge.json and the judge's answers")
    overwrite: bool = option(False, "replace what an earlier run with other settings concluded")
    model: ModelConfig = block(ModelConfig)
    sampling: SamplingConfig = block(SamplingConfig, max_tokens=1024)
    votes: VoteConfig = block(VoteConfig, omit=("min_agreement",), thinking=False)
    decoding: Literal["free", "constrained"] = option(
        "free", "constrained: the judge can write nothing but a verdict (vllm and server)"
    )
    engine: EngineConfig = block(EngineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.model_name == "none":
            raise ConfigError(
                "--model_name is not given; name the model that judges, e.g. --model_name "
                "Qwen/Qwen3-30B-A3B-Instruct-2507"
            )
