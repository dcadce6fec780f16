r"""Evaluate batched, constrained and scored against one input at a time: one model, one run.

    .venv/bin/python benchmarks/evaluation_speed.py --model models/prompt_distillation_trl
    .venv/bin/python benchmarks/evaluation_speed.py --model example-models/teacher \
        --with_prompt --thinking --ways batched --one_at_a_time 40

One at a time is `model.generate` of transformers, as a plain script calls it: one conversation,
greedy, as many new tokens at most as the evaluation allows. It is timed on `--one_at_a_time` inputs
and scaled to all of them; the batched ways are timed on all. Every way is a process of its own, and
what it took beyond its answers, from starting Python to ending it, is its start-up. Wants a quiet
machine.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from plain_loop import generate_each, load

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.evaluation.evaluator import evaluate
from prompt_distillation.evaluation.predictions import asking_of
from prompt_distillation.tasks import load_task

LOOPS = {"adapter as loaded": False, "adapter merged": True}
WAYS = {"batched": "free", "constrained": "constrained", "scored": "scored"}


class Measured(NamedTuple):
    """One way of evaluating all inputs.

    Attributes:
        startup: seconds before, between and after the answers.
        run: seconds of the answers.
        right: share of them that is gold, of a batched way.
    """

    startup: float
    run: float
    right: float | None


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="example-models/student", help="adapter or whole model")
    parser.add_argument("--task", type=Path, default=Path("tasks/language"))
    parser.add_argument("--with_prompt", action="store_true", help="under the task's prompt")
    parser.add_argument("--thinking", action="store_true", help="the model reasons first")
    parser.add_argument("--engine", default="auto", choices=["auto", "vllm", "transformers"])
    parser.add_argument("--test_file", type=Path, default=Path("example-data/multilingual.txt"))
    parser.add_argument("--one_at_a_time", type=int, default=300, help="inputs timed in the loop")
    parser.add_argument("--ways", default=",".join(WAYS), help="of batching, with commas between")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all ways and print seconds and ratios; or one of them, in its own process."""
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    adapter = resolve_model(arguments.model).adapter
    inputs = len(list(read_inputs(arguments.test_file)))
    print(f"{inputs:,} inputs, {arguments.model}")
    loops = {}
    for name in LOOPS if adapter else ["adapter merged"]:
        title = name if adapter else "whole model"
        loops[title] = in_own_process(name)
        print(
            f"one at a time, {title} (timed on {min(arguments.one_at_a_time, inputs):,}): "
            f"start {loops[title].startup:.1f} s, run {loops[title].run:.1f} s",
            flush=True,
        )
    for way in arguments.ways.split(","):
        ours = in_own_process(way)
        print(
            f"{way}: start {ours.startup:.1f} s, run {ours.run:.1f} s "
            f"({inputs / ours.run:,.0f}/s, {ours.right:.1%} right)"
        )
        for title, loop in loops.items():
            print(
                f"  against {title}: {loop.run / ours.run:.1f} times as fast, "
                f"{(loop.startup + loop.run) / (ours.startup + ours.run):.1f} times with start-up",
                flush=True,
            )


def in_own_process(way: str) -> Measured:
    """Measure one way from the start of its process to its end."""
    command = [sys.executable, *sys.argv, "--measure", way]
    started = time.perf_counter()
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    whole = time.perf_counter() - started
    timed, run, right = json.loads(ended.stdout.splitlines()[-1])
    return Measured(startup=whole - timed, run=run, right=right)


def measure(way: str, arguments: argparse.Namespace) -> tuple[float, float, float | None]:
    """Seconds of the timed answers, the same for all inputs, and the share that is right."""
    task, model = load_task(arguments.task), resolve_model(arguments.model)
    inputs = list(read_inputs(arguments.test_file))
    if way not in LOOPS:
        run, right = batched(way, arguments)
        return run, run, right
    # Evenly out of the file, whose languages stand one after the other, and differ in length.
    some = inputs[:: max(1, len(inputs) // arguments.one_at_a_time)]
    language_model, tokenizer = load(model, merged=LOOPS[way])
    each = generate_each(
        language_model,
        tokenizer,
        [task.conversation(item.text, with_prompt=arguments.with_prompt) for item in some],
        max_new_tokens=asking_of(config_of(arguments), task).sampling.max_tokens,
        do_sample=False,
    )
    return each * len(some), each * len(inputs), None


def batched(way: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the answers, and accuracy, of `evaluate.py`'s own path."""
    result = evaluate(config_of(arguments, decoding=WAYS[way]))
    assert result.usage is not None
    return result.usage.run_seconds, result.summary.correct / len(result.predictions)


def config_of(arguments: argparse.Namespace, *, decoding: str = "free") -> EvaluateConfig:
    """The evaluation of all inputs that `evaluate.py` would run."""
    return EvaluateConfig.of(
        model_path=arguments.model,
        task=arguments.task,
        test_file=arguments.test_file,
        split="all",
        engine=arguments.engine,
        with_prompt=arguments.with_prompt,
        thinking=arguments.thinking,
        decoding=decoding,
    )


if __name__ == "__main__":
    main()
