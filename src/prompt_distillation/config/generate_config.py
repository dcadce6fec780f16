"""Settings of generating inputs: from templates, or from a few examples with a model."""

from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.config import (
    EngineConfig,
    InputConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    block,
    option,
)
from prompt_distillation.config.label_config import DEFAULT_TEACHER
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GrowConfig(Settings):
    """How a model is asked for new inputs (--examples)."""

    examples_per_request: int = option(
        3, "examples that a request shows; they are the group of what it brings", low=1, high=100
    )
    inputs_per_request: int = option(10, "new inputs that a request asks for", low=1, high=200)
    idle_requests: int = option(
        50, "requests in a row without a new input after which generation gives up", low=1
    )
    instructions: str | None = option(
        None, "what the new inputs should be like, in a sentence or two, for the model to read"
    )
    task: Path | None = option(
        None, "task folder whose prompt is shown to the model as what the inputs are for"
    )
    thinking: bool = option(True, "the model reasons first; without </think> there is no answer")
    max_retries: int = option(1, "further attempts while no answer can be read", low=0, high=20)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(Settings):
    """Settings of `generate_inputs.py` and of `generate_inputs`."""

    templates: Path | None = option(
        None, "YAML file of templates and lists to fill them from; no model is asked"
    )
    examples: Path | None = option(
        None, "a few inputs, in any format of create_data.py, that a model makes more of"
    )
    output_file: Path = option(Path("data/inputs.jsonl"), "the inputs to write, NAME.jsonl")
    num_inputs: int = option(5000, "inputs to write", low=1, high=10_000_000)
    near_duplicates: float = option(
        0.85,
        "an input is refused if an earlier one is at least this similar (Jaccard similarity of "
        "their pieces of 5 characters); 1: only if they have the same pieces",
        above=0, high=1,
    )  # fmt: skip
    grow: GrowConfig = block(GrowConfig)
    fields: InputConfig = block(InputConfig, omit=("label_field", "group_field", "max_samples"))
    model: ModelConfig = block(ModelConfig, model_name=DEFAULT_TEACHER)
    sampling: SamplingConfig = block(SamplingConfig, temperature=0.9, max_tokens=4096)
    engine: EngineConfig = block(EngineConfig)
    overwrite: bool = option(False, "replace inputs that an earlier run wrote to --output_file")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.templates is None) is (self.examples is None):
            raise ConfigError(
                "pass either --templates FILE, e.g. tasks/beethoven/questions.yaml, or --examples "
                "FILE with a few inputs for a model to make more of"
            )
        if self.output_file.suffix != ".jsonl" or self.output_file.is_dir():
            raise ConfigError(
                f"--output_file is {str(self.output_file)!r}; it must be a file whose name ends in "
                ".jsonl"
            )
        if self.examples is not None and self.sampling.temperature == 0:
            raise ConfigError(
                "--temperature is 0: the same examples would always bring the same inputs; set a "
                "temperature above 0, e.g. 0.9"
            )
