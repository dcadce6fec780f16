"""Settings of a comparison: the teacher, the student, and what each costs."""

from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.config import (
    EngineConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    TokenPriceConfig,
    block,
    listed,
    option,
)
from prompt_distillation.config.evaluate_config import (
    DEFAULT_STUDENT,
    TestConfig,
    TextScoreConfig,
)
from prompt_distillation.config.label_config import DEFAULT_TEACHER
from prompt_distillation.errors import ConfigError

DEFAULT_CELLS = ("teacher", "teacher_direct", "student_prompted", "student_before", "student")
CELLS = (*DEFAULT_CELLS, "student_constrained")


@dataclass(frozen=True, kw_only=True)
class CostConfig(Settings):
    """Prices, either per token or per hour of the machine that serves."""

    currency: str = option("USD", "currency of all prices")
    price_per_hour: float | None = option(
        None,
        "price of an hour of the serving machine; the costs then follow from the throughput",
        low=0,
    )
    teacher_prices: TokenPriceConfig = block(TokenPriceConfig, prefix="teacher_")
    student_prices: TokenPriceConfig = block(TokenPriceConfig, prefix="student_")
    training_cost: float | None = option(
        None,
        "cost of labelling and training together; none: their hours, if their manifests have them, "
        "at --price_per_hour, else 0",
        low=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        teacher = self.teacher_prices.cost(input_tokens=1, output_tokens=1)
        student = self.student_prices.cost(input_tokens=1, output_tokens=1)
        if (teacher is None) is not (student is None):
            raise ConfigError(
                "there are prices per token of one model only; pass them for both or neither: "
                "--teacher_price_per_million_input_tokens and so on"
            )
        if self.price_per_hour == 0 or teacher == 0:
            raise ConfigError(
                "the teacher's queries would cost nothing, so nothing could be saved; set prices "
                "above 0, or none"
            )
        if teacher is not None and self.price_per_hour is not None:
            raise ConfigError("pass either prices per token or --price_per_hour, not both")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settings):
    """The teacher and the student."""

    teacher: ModelConfig = block(
        ModelConfig,
        prefix="teacher_",
        rename={"model_name": "teacher_model"},
        model_name=DEFAULT_TEACHER,
    )
    teacher_sampling: SamplingConfig = block(
        SamplingConfig,
        prefix="teacher_",
        rename={"seed": "seed"},
        temperature=0.15,
        max_tokens=4096,
    )
    thinking: bool = option(True, "the teacher reasons first; without </think> there is no answer")
    student: ModelConfig = block(
        ModelConfig,
        prefix="student_",
        rename={"model_name": "student_path", "base_model": "base_model"},
        model_name=DEFAULT_STUDENT,
    )


@dataclass(frozen=True, kw_only=True)
class PairConfig(ModelsConfig):
    """The teacher, the student, and the inputs that both are asked."""

    test: TestConfig = block(TestConfig)
    engine: EngineConfig = block(EngineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine.engine == "server":
            raise ConfigError(
                "--engine server serves one model, and here several are asked; use vllm or "
                "transformers"
            )


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PairConfig):
    """Settings of `compare.py` and of `compare`."""

    cells: str = option(
        ",".join(DEFAULT_CELLS), "models and prompts to measure, separated by commas"
    )
    output_dir: Path = option(Path("./comparison"), "folder for results, tables and plots")
    overwrite: bool = option(False, "replace a comparison that is already there")
    score_labels: bool = option(
        True,
        "also score the labels: calibration, accuracy against coverage, the cascade",
    )
    latency_samples: int = option(50, "queries timed one after the other", low=1, high=100_000)
    concurrency: int = option(
        32, "queries in flight for the latency under load", low=1, high=65_536
    )
    costs: CostConfig = block(CostConfig)
    texts: TextScoreConfig = block(TextScoreConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.cell_names

    @property
    def cell_names(self) -> list[str]:
        """What to measure, in the order of the table."""
        return listed(self.cells, CELLS, name="cells")
