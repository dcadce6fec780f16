"""Options of `evaluate.py`, and of each model that `compare.py` asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.checkpoints import DEFAULT_BASE_MODEL
from prompt_distillation.cli.options import check_range, check_server_url, option
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of `evaluate.py`."""

    model_path: str = option(
        "./models/prompt_distillation_trl",
        "adapter or whole model: a folder or a hub name; 'none': the base model alone; with "
        "--engine server: the name it serves",
    )
    base_model: str | None = option(
        None,
        "what an adapter is put on: a folder or a hub name; none: what the adapter names, and "
        f"where there is no adapter {DEFAULT_BASE_MODEL}",
    )
    test_file: Path = option(
        Path("./example-data/multilingual.txt"), "inputs: .txt, .jsonl, .csv, .tsv or .parquet"
    )
    ground_truth_file: Path | None = option(
        None, "gold labels, one per input of the test file: a label a line, or .jsonl with 'label'"
    )
    train_data_file: Path = option(
        Path("./data/prompt_distillation_lang.jsonl"),
        "what the model was trained on: says which inputs are held out, what overlaps, and what "
        "the teacher answered",
    )
    output_file: Path = option(
        Path("./evaluation_results.json"),
        "the result; one that is there already is kept as NAME.1.json, NAME.2.json, ...",
    )
    task: Path = option(Path("tasks/language"), "folder with task.yaml and the prompt")
    split: Literal["held_out", "all"] = option(
        "held_out", "the groups that were kept out of training, or every input"
    )
    max_samples: int | None = option(None, "evaluate only the first N inputs of the split")
    truth: Literal["auto", "gold", "teacher"] = option(
        "auto", "what accuracy is measured against; auto: gold labels where there are any"
    )
    predictions_file: Path | None = option(
        None,
        "score these predictions instead of running a model: .txt with a label a line, .jsonl "
        "with 'predicted', or an earlier result",
    )
    with_prompt: bool = option(False, "put the task's prompt before each input")
    thinking: bool = option(False, "the model reasons first; the answer follows </think>")
    temperature: float = option(0.0, "of sampling; 0 is greedy (the teacher labels with 0.15)")
    max_tokens: int | None = option(
        None,
        "most new tokens per answer; none: 4096 thinking, 512 with the prompt, else room for the "
        "longest label (at least 16), and 1024 for generated text",
    )
    decoding: Literal["free", "constrained", "scored"] = option(
        "free",
        "free: the model writes; constrained: nothing but a label can be written; scored: one "
        "pass gives each label's probability, and nothing is written",
    )
    min_accuracy: float | None = option(
        None, "gate: exit with 3 if the accuracy is below this share, in [0, 1]"
    )
    max_drop: float | None = option(
        None,
        "gate: exit with 3 if the accuracy is more than this share below --baseline; with 4 if "
        "that drop is inside the noise",
    )
    baseline: Path | None = option(None, "gate: an earlier result to compare with, for --max_drop")
    min_parse_rate: float | None = option(
        None, "gate: exit with 3 if fewer completions than this share hold an answer, in [0, 1]"
    )
    seed: int = option(0, "of sampling")
    engine: Literal["auto", "vllm", "transformers", "server"] = option(
        "auto", "who runs the model; auto: vLLM where it can run, else transformers"
    )
    server_url: str | None = option(None, "base URL of an OpenAI-compatible server, ending in /v1")
    tensor_parallel_size: int = option(1, "GPUs that share one copy of the model")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", "of the weights; auto: the checkpoint's"
    )
    max_model_len: int | None = option(
        None, "longest prompt and answer together, in tokens; none: the model's own"
    )
    gpu_memory_utilization: float = option(0.9, "share of each GPU's memory that vLLM may take")
    max_concurrency: int | None = option(None, "most requests in flight; none: the engine's own")
    quiet: bool = option(False, "no line per input, only the tables")

    def __post_init__(self) -> None:
        """Check what can be checked without a file or a model."""
        check_range("max_samples", self.max_samples, low=1)
        check_range("temperature", self.temperature, low=0.0, high=2.0)
        check_range("max_tokens", self.max_tokens, low=1)
        check_range("tensor_parallel_size", self.tensor_parallel_size, low=1)
        check_range("max_model_len", self.max_model_len, low=1)
        check_range("gpu_memory_utilization", self.gpu_memory_utilization, low=0.01, high=1.0)
        check_range("max_concurrency", self.max_concurrency, low=1)
        if self.engine == "server" and self.server_url is None:
            raise ConfigError("--engine server needs --server_url, e.g. http://localhost:8000/v1")
        check_server_url(self.server_url)
        check_range("min_accuracy", self.min_accuracy, low=0.0, high=1.0)
        check_range("max_drop", self.max_drop, low=0.0, high=1.0)
        check_range("min_parse_rate", self.min_parse_rate, low=0.0, high=1.0)
        if (self.max_drop is None) is not (self.baseline is None):
            raise ConfigError("--max_drop and --baseline belong together; pass both or neither")
        if self.decoding != "free" and self.thinking:
            raise ConfigError(
                f"--decoding {self.decoding} and --thinking exclude each other: reasoning is no "
                "label; drop one"
            )
