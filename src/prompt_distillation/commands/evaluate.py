"""`evaluate.py`: measure a model on held-out inputs."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prompt_distillation.checkpoints import DEFAULT_BASE_MODEL, ResolvedModel, resolve_model
from prompt_distillation.commands.options import check_range, option, parse_options, resolved
from prompt_distillation.errors import ConfigError
from prompt_distillation.inputs import Input, check_gold, read_inputs, with_gold
from prompt_distillation.task import Task, load_task

if TYPE_CHECKING:  # what these import takes longer than --help may
    from rich.console import Console

    from prompt_distillation.evaluation.predicting import Asking
    from prompt_distillation.evaluation.schema import Prediction, Result, Usage
    from prompt_distillation.evaluation.selection import Selection
    from prompt_distillation.report.terminal import Stream

logger = logging.getLogger(__name__)

DESCRIPTION = """Measure a model on held-out inputs: accuracy, confusion, agreement, usage.

  evaluate.py                                       the distilled student
  evaluate.py --max_samples 100                     a quick look
  evaluate.py --model_path none                     the base model alone
  evaluate.py --model_path none --base_model Qwen/Qwen3-30B-A3B-Thinking-2507 \\
      --with_prompt --thinking --temperature 0.15   the teacher"""


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
    constrained: bool = option(False, "let the model write nothing but one of the task's labels")
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
        if self.constrained and self.thinking:
            raise ConfigError(
                "--constrained and --thinking exclude each other: reasoning is no label; drop one"
            )


def main(argv: Sequence[str]) -> int | None:
    """Evaluate as ``argv`` says: print a line per input, then the tables; write the result."""
    config = parse_options(EvaluateConfig, argv, description=DESCRIPTION)
    # Imported only now: scientific libraries take longer than --help may.
    from prompt_distillation.evaluation.result_file import check_output, write_result
    from prompt_distillation.report.terminal import make_console, print_result

    check_output(config.output_file)
    task = load_task(config.task)
    selection = _select(config, task)
    console = make_console()
    result = _evaluate(config, task, selection, console)
    aside = write_result(config.output_file, result)
    print_result(console, result, output_file=config.output_file)
    if aside:
        console.print(f"   The previous result is kept as: {aside}", soft_wrap=True)
    return None


def _select(config: EvaluateConfig, task: Task) -> "Selection":
    """Read the test file and what is known of it; choose what to evaluate."""
    from prompt_distillation.evaluation.selection import select
    from prompt_distillation.evaluation.training_data import read_training_data

    inputs = list(read_inputs(config.test_file))
    if config.ground_truth_file is not None:
        inputs = with_gold(inputs, config.ground_truth_file)
    inputs = list(check_gold(inputs, task, where=config.ground_truth_file or config.test_file))
    training = read_training_data(config.train_data_file)
    selection = select(
        inputs,
        training,
        split=config.split,
        max_samples=config.max_samples,
        truth=None if config.truth == "auto" else config.truth,
    )
    _warn_of_overlap(selection, inputs, split=config.split)
    return selection


def _warn_of_overlap(selection: "Selection", inputs: Sequence[Input], *, split: str) -> None:
    overlap = selection.overlap
    if not overlap.checked:
        logger.warning(
            "The training data is not there (--train_data_file): whether these inputs were "
            "trained on cannot be checked."
        )
    elif overlap.texts or overlap.groups:
        logger.warning(
            "%.1f%% of these inputs (%d of %d) were TRAINED ON; %.1f%% share a group with one that "
            "was. What follows is not the accuracy on new inputs.",
            100 * overlap.texts / overlap.total, overlap.texts, overlap.total,
            100 * overlap.groups / overlap.total,
        )  # fmt: skip
    if split == "held_out":
        logger.info("Held-out inputs only: %d of %d.", len(selection.items), len(inputs))


def _evaluate(
    config: EvaluateConfig, task: Task, selection: "Selection", console: "Console"
) -> "Result":
    """Get the predictions, from the model or a file, and score them."""
    from prompt_distillation.evaluation.replaying import replay
    from prompt_distillation.evaluation.running import Subject, build_result
    from prompt_distillation.report.terminal import Stream

    stream = Stream(console, total=len(selection.items), quiet=config.quiet)
    used: Usage | None = None
    if config.predictions_file is not None:
        model = ResolvedModel(base=str(config.predictions_file))
        predictions = tuple(replay(config.predictions_file, selection.items, task=task))
        for prediction in predictions:
            stream.show(prediction)
    else:
        model = _resolve_model(config)
        predictions, used = _ask(config, task, selection, model, stream)
    stream.finish()
    adapter = None if model.adapter is None else str(model.adapter)
    subject = Subject(model_path=config.model_path, base_model=model.base, adapter=adapter)
    return build_result(
        selection, predictions, subject=subject, task=task, used=used, config=resolved(config)
    )


def _resolve_model(config: EvaluateConfig) -> ResolvedModel:
    if config.engine == "server":  # the server has the model; here it is only a name
        return ResolvedModel(base=config.model_path)
    return resolve_model(config.model_path, config.base_model)


def _ask(
    config: EvaluateConfig,
    task: Task,
    selection: "Selection",
    model: ResolvedModel,
    stream: "Stream",
) -> "tuple[tuple[Prediction, ...], Usage]":
    from prompt_distillation.engines import EngineOptions
    from prompt_distillation.evaluation.running import ask_model

    options = EngineOptions(
        model=model.base,
        adapter=model.adapter,
        dtype=config.dtype,
        tensor_parallel_size=config.tensor_parallel_size,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=config.gpu_memory_utilization,
        max_concurrency=config.max_concurrency,
        server_url=config.server_url,
        seed=config.seed,
    )
    return asyncio.run(
        ask_model(
            config.engine,
            options,
            selection,
            task=task,
            asking=_asking(config, task),
            show=stream.show,
        )
    )


def _asking(config: EvaluateConfig, task: Task) -> "Asking":
    from prompt_distillation.engines import Sampling
    from prompt_distillation.evaluation.predicting import Asking, default_max_tokens

    max_tokens = config.max_tokens or default_max_tokens(
        task, with_prompt=config.with_prompt, thinking=config.thinking
    )
    sampling = Sampling(
        temperature=config.temperature,
        max_tokens=max_tokens,
        seed=config.seed,
        choices=tuple(task.labels) if config.constrained else None,
    )
    return Asking(with_prompt=config.with_prompt, thinking=config.thinking, sampling=sampling)
