"""`evaluate.py`: measure a model on held-out inputs."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import flat
from prompt_distillation.data.inputs import Columns, Input, check_gold, read_inputs, with_gold
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.evaluation.evaluate_config import EvaluateConfig, TestConfig
from prompt_distillation.tasks import Task, load_task

if TYPE_CHECKING:  # what these import takes longer than --help may
    from rich.console import Console

    from prompt_distillation.data.results import Prediction, Result, Usage
    from prompt_distillation.engines import EngineOptions
    from prompt_distillation.evaluation.predicting import Asking
    from prompt_distillation.evaluation.selection import Selection
    from prompt_distillation.report.terminal import Stream

logger = logging.getLogger(__name__)

DESCRIPTION = """Measure a model on held-out inputs: accuracy, confusion, agreement, usage.

  evaluate.py                                       the distilled student
  evaluate.py --max_samples 100                     a quick look
  evaluate.py --model_path none                     the base model alone
  evaluate.py --model_path none --base_model Qwen/Qwen3-30B-A3B-Thinking-2507 \\
      --with_prompt --thinking --temperature 0.15   the teacher"""

GATE_CODES = {"passed": 0, "failed": 3, "undecided": 4}
"""Exit codes of the deployment gate; 2 is a user's error, as everywhere."""


def main(argv: Sequence[str]) -> int | None:
    """Evaluate as ``argv`` says: print a line per input, then the tables; write the result."""
    config = parse_options(EvaluateConfig, argv, description=DESCRIPTION)
    # Imported only now: scientific libraries take longer than --help may.
    from prompt_distillation.data.result_files import check_output, write_result
    from prompt_distillation.report.terminal import make_console, print_result

    check_output(config.output_file)
    console = make_console()
    result = evaluate(config, console)
    aside = write_result(config.output_file, result)
    print_result(console, result, output_file=config.output_file)
    if aside:
        console.print(f"   The previous result is kept as: {aside}", soft_wrap=True)
    if result.gate is None:
        return None
    reasons = "; ".join(result.gate.reasons)
    console.print(f"\nGATE {result.gate.status.upper()}: {reasons}", soft_wrap=True)
    return GATE_CODES[result.gate.status]


def evaluate(config: EvaluateConfig, console: "Console") -> "Result":
    """Evaluate as ``config`` says, with a line per input on ``console``; writes nothing."""
    from prompt_distillation.data.result_files import read_result
    from prompt_distillation.evaluation.gate import GateRules, check_gate

    task = load_task(config.test.task)
    if config.decoding != "free" and not task.labels:
        raise ConfigError(
            f"--decoding {config.decoding} needs labels; the task {task.name!r} has none"
        )
    baseline = read_result(config.gate.baseline) if config.gate.baseline else None
    result = _evaluate(config, task, select_inputs(config.test, task), console)
    rules = GateRules(
        min_accuracy=config.gate.min_accuracy,
        max_drop=config.gate.max_drop,
        min_parse_rate=config.gate.min_parse_rate,
    )
    gate = check_gate(result, rules, baseline=baseline, baseline_path=config.gate.baseline)
    return replace(result, gate=gate)


def select_inputs(config: TestConfig, task: Task) -> "Selection":
    """Read the test file and what is known of it; choose what to evaluate.

    Raises:
        InputError: a file that was asked for is missing or not what it should be.
    """
    from prompt_distillation.evaluation.selection import select
    from prompt_distillation.evaluation.training_data import read_training_data

    _check_training_data_is_there(config.train_data_file)
    columns = Columns(
        text=config.inputs.text_field,
        gold=config.inputs.label_field,
        group=config.inputs.group_field,
    )
    inputs = list(read_inputs(config.test_file, columns=columns))
    if config.ground_truth_file is not None:
        inputs = with_gold(inputs, config.ground_truth_file)
    inputs = list(check_gold(inputs, task, where=config.ground_truth_file or config.test_file))
    training = read_training_data(config.train_data_file)
    selection = select(
        inputs,
        training,
        split=config.split,
        max_samples=config.inputs.max_samples,
        truth=None if config.truth == "auto" else config.truth,
    )
    _warn_of_overlap(selection, inputs, split=config.split)
    return selection


def _check_training_data_is_there(path: Path) -> None:
    """Refuse a mistyped path: held-out inputs and overlap would be taken from nothing.

    The default may be missing, as it is for who has a model without its data.
    """
    if path != TestConfig().train_data_file and not path.is_file():
        raise InputError(
            f"no training data at {path} (--train_data_file); check the path, or leave the flag out"
        )


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
        count, of_split = len(selection.items), selection.of_split
        first = (
            f"the first {count} of {of_split} held out, of" if count < of_split else f"{count} of"
        )
        logger.info("Held-out inputs only: %s %d.", first, len(inputs))


def _evaluate(
    config: EvaluateConfig, task: Task, selection: "Selection", console: "Console"
) -> "Result":
    """Get the predictions, from the model or a file, and score them."""
    from prompt_distillation.engines import EngineOptions, engine_options
    from prompt_distillation.evaluation.replaying import replay
    from prompt_distillation.evaluation.running import Subject, build_result
    from prompt_distillation.report.terminal import Stream

    stream = Stream(console, total=len(selection.items), quiet=config.quiet)
    used: Usage | None = None
    if config.predictions_file is not None:
        options = EngineOptions(model=str(config.predictions_file))
        predictions = tuple(replay(config.predictions_file, selection.items, task=task))
        for prediction in predictions:
            stream.show(prediction)
    else:
        options = engine_options(config.model, config.engine, seed=config.sampling.seed)
        predictions, used = _ask(config, task, selection, options, stream)
    stream.finish()
    adapter = None if options.adapter is None else str(options.adapter)
    subject = Subject(model_path=config.model.model_name, base_model=options.model, adapter=adapter)
    return build_result(
        selection, predictions, subject=subject, task=task, used=used, config=flat(config)
    )


def _ask(
    config: EvaluateConfig,
    task: Task,
    selection: "Selection",
    options: "EngineOptions",
    stream: "Stream",
) -> "tuple[tuple[Prediction, ...], Usage]":
    from prompt_distillation.evaluation.running import ask_model

    return asyncio.run(
        ask_model(
            config.engine.engine,
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

    max_tokens = config.sampling.max_tokens or default_max_tokens(
        task, with_prompt=config.with_prompt, thinking=config.thinking
    )
    sampling = Sampling(
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_tokens=max_tokens,
        max_thinking_tokens=config.sampling.max_thinking_tokens,
        seed=config.sampling.seed,
        choices=tuple(task.labels) if config.decoding == "constrained" else None,
    )
    return Asking(
        with_prompt=config.with_prompt,
        thinking=config.thinking,
        sampling=sampling,
        prefill=config.sampling.prefill or "",
        scored=config.decoding == "scored",
    )
