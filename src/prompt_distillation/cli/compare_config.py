"""Options of `compare.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.checkpoints import DEFAULT_BASE_MODEL
from prompt_distillation.cli.options import check_range, option
from prompt_distillation.errors import ConfigError

CELLS = ("teacher", "teacher_direct", "student_prompted", "student_before", "student")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of `compare.py`."""

    teacher_model: str = option(
        "Qwen/Qwen3-30B-A3B-Thinking-2507", "the thinking model: a folder or a hub name"
    )
    student_path: str = option(
        "./models/prompt_distillation_trl", "the distilled student: an adapter or a whole model"
    )
    base_model: str | None = option(
        None,
        "the student before distillation; none: what the adapter names, and where there is no "
        f"adapter {DEFAULT_BASE_MODEL}",
    )
    cells: str = option(",".join(CELLS), "what to measure, with commas between")
    task: Path = option(Path("tasks/language"), "folder with task.yaml and the prompt")
    test_file: Path = option(
        Path("./example-data/multilingual.txt"), "inputs: .txt, .jsonl, .csv, .tsv or .parquet"
    )
    ground_truth_file: Path | None = option(None, "gold labels, one per input of the test file")
    train_data_file: Path = option(
        Path("./data/prompt_distillation_lang.jsonl"), "what the student was trained on"
    )
    split: Literal["held_out", "all"] = option(
        "held_out", "the groups that were kept out of training, or every input"
    )
    max_samples: int | None = option(None, "only the first N inputs of the split")
    output_dir: Path = option(Path("./comparison"), "where results, tables and plots go")
    overwrite: bool = option(False, "replace a comparison that is there already")
    teacher_temperature: float = option(0.15, "of the teacher's sampling; the student is greedy")
    teacher_max_tokens: int = option(4096, "most new tokens of the thinking teacher")
    seed: int = option(0, "of sampling")
    score_labels: bool = option(
        True, "also score the student's labels in one pass: calibration, coverage, the cascade"
    )
    latency_samples: int = option(50, "queries timed alone, one after the other")
    concurrency: int = option(32, "queries in flight for the latency under load")
    engine: Literal["auto", "vllm", "transformers"] = option("auto", "who runs the models")
    tensor_parallel_size: int = option(1, "GPUs that share one copy of a model")
    max_model_len: int | None = option(None, "longest prompt and answer, in tokens")
    gpu_memory_utilization: float = option(0.9, "share of each GPU's memory that vLLM may take")
    currency: str = option("USD", "of all prices")
    price_per_hour: float | None = option(
        None, "of the machine that serves; with it, costs follow from the throughput"
    )
    teacher_price_in: float | None = option(None, "per million tokens of the teacher's prompt")
    teacher_price_cached: float | None = option(
        None, "per million of its cached tokens; none: as other tokens of the prompt"
    )
    teacher_price_out: float | None = option(None, "per million tokens that the teacher writes")
    student_price_in: float | None = option(None, "per million tokens of the student's prompt")
    student_price_out: float | None = option(None, "per million tokens that the student writes")
    training_cost: float | None = option(
        None,
        "of labelling and training together; none: their hours on the machine, where "
        "--price_per_hour is given and their manifests are there, else 0",
    )

    def __post_init__(self) -> None:
        """Check what can be checked without a file or a model."""
        unknown = [name for name in self.cell_names if name not in CELLS]
        if unknown or not self.cell_names:
            raise ConfigError(f"--cells is {self.cells!r}; known are {', '.join(CELLS)}")
        check_range("max_samples", self.max_samples, low=1)
        check_range("teacher_temperature", self.teacher_temperature, low=0.0, high=2.0)
        check_range("teacher_max_tokens", self.teacher_max_tokens, low=1)
        check_range("latency_samples", self.latency_samples, low=1)
        check_range("concurrency", self.concurrency, low=1)
        check_range("tensor_parallel_size", self.tensor_parallel_size, low=1)
        check_range("max_model_len", self.max_model_len, low=1)
        check_range("gpu_memory_utilization", self.gpu_memory_utilization, low=0.01, high=1.0)
        check_range("price_per_hour", self.price_per_hour, low=0.0)
        check_range("training_cost", self.training_cost, low=0.0)
        tokens = (
            self.teacher_price_in, self.teacher_price_out,
            self.student_price_in, self.student_price_out,
        )  # fmt: skip
        for name in ("teacher_price_in", "teacher_price_cached", "teacher_price_out",
                     "student_price_in", "student_price_out"):  # fmt: skip
            check_range(name, vars(self)[name], low=0.0)
        given = [price is not None for price in tokens]
        if not all(given) and (any(given) or self.teacher_price_cached is not None):
            raise ConfigError(
                "prices per token belong together: --teacher_price_in, --teacher_price_out, "
                "--student_price_in and --student_price_out"
            )
        if self.price_per_hour == 0 or (all(given) and not any(tokens[:2])):
            raise ConfigError(
                "the teacher's queries would cost nothing, and nothing could be saved; set prices "
                "above 0, or none"
            )
        if all(given) and self.price_per_hour is not None:
            raise ConfigError("pass either prices per token or --price_per_hour, not both")

    @property
    def cell_names(self) -> list[str]:
        """What to measure, in the order of the table."""
        return [name.strip() for name in self.cells.split(",") if name.strip()]
