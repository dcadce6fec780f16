r"""Evaluate batched, constrained and scored against one input at a time: one model, one run.

    .venv/bin/python benchmarks/evaluation_speed.py
    .venv/bin/python benchmarks/evaluation_speed.py --model models/prompt_distillation_trl \
        --engine vllm --one_at_a_time 2101

One at a time is `model.generate` of transformers, as a plain script calls it: one conversation,
greedy, as many new tokens at most as the evaluation allows. It is timed on `--one_at_a_time` inputs
and scaled to all of them; the batched ways are timed on all. Wants a quiet machine.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path

from prompt_distillation.checkpoints import ResolvedModel, resolve_model
from prompt_distillation.engines import EngineOptions, Sampling
from prompt_distillation.evaluation.predicting import Asking, default_max_tokens
from prompt_distillation.evaluation.running import ask_model
from prompt_distillation.evaluation.selection import Selection, select
from prompt_distillation.evaluation.training_data import read_training_data
from prompt_distillation.inputs import Input, read_inputs
from prompt_distillation.task import Task, load_task

WAYS = {"batched": "free", "constrained": "constrained", "scored": "scored"}


def one_at_a_time(
    model: ResolvedModel, inputs: Sequence[Input], task: Task, *, max_tokens: int, merged: bool
) -> tuple[float, float]:
    """Seconds to load, and seconds per input, of a plain loop over `generate`.

    The adapter is merged first, or left as PEFT loads it: most scripts do the latter.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    language_model = AutoModelForCausalLM.from_pretrained(model.base, dtype="auto")
    if model.adapter is not None:
        from peft import PeftModel

        from prompt_distillation.checkpoints import merged_in_memory

        language_model = (
            merged_in_memory(language_model, model.adapter)
            if merged
            else PeftModel.from_pretrained(language_model, str(model.adapter))
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    language_model = language_model.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(model.adapter or model.base))
    loaded = time.perf_counter()
    for item in inputs:
        turns = [dict(turn) for turn in task.conversation(item.text, with_prompt=False)]
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(device)
        with torch.inference_mode():
            language_model.generate(**encoded, max_new_tokens=max_tokens, do_sample=False)
    seconds = (time.perf_counter() - loaded) / len(inputs)
    del language_model
    gc.collect()
    return loaded - started, seconds


def batched(
    way: str, model: ResolvedModel, selection: Selection, task: Task, arguments: argparse.Namespace
) -> tuple[float, float, float]:
    """Seconds of start-up, seconds of the run, and accuracy, of `evaluate.py`'s own path."""
    decoding = WAYS[way]
    sampling = Sampling(
        max_tokens=default_max_tokens(task, with_prompt=False, thinking=False),
        choices=tuple(task.labels) if decoding == "constrained" else None,
    )
    asking = Asking(
        with_prompt=False, thinking=False, sampling=sampling, scored=decoding == "scored"
    )
    predictions, used = asyncio.run(
        ask_model(
            arguments.engine,
            EngineOptions(model=model.base, adapter=model.adapter),
            selection,
            task=task,
            asking=asking,
            show=lambda _: None,
        )
    )
    right = sum(item.correct is True for item in predictions) / len(predictions)
    return used.startup_seconds, used.run_seconds, right


def main() -> None:
    """Run all ways and print seconds and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="example-models/student", help="adapter or whole model")
    parser.add_argument("--engine", default="auto", choices=["auto", "vllm", "transformers"])
    parser.add_argument("--test_file", type=Path, default=Path("example-data/multilingual.txt"))
    parser.add_argument("--one_at_a_time", type=int, default=300, help="inputs timed in the loop")
    parser.add_argument("--ways", default=",".join(WAYS), help="of batching, with commas between")
    arguments = parser.parse_args()

    task, model = load_task(Path("tasks/language")), resolve_model(arguments.model)
    inputs = list(read_inputs(arguments.test_file))
    training = read_training_data(Path("no-training-data.jsonl"))
    selection = select(inputs, training, split="all", max_samples=None, truth=None)
    max_tokens = default_max_tokens(task, with_prompt=False, thinking=False)
    some = inputs[: arguments.one_at_a_time]
    print(f"{len(inputs)} inputs, {arguments.model}")
    loops = {}
    for name in ("adapter merged", "adapter as loaded") if model.adapter else ("whole model",):
        loading, each = one_at_a_time(
            model, some, task, max_tokens=max_tokens, merged=name == "adapter merged"
        )
        loops[name] = (loading, each * len(inputs))
        print(
            f"one at a time, {name} (timed on {len(some)}): load {loading:.1f} s, "
            f"run {each * len(inputs):.1f} s"
        )
    for way in arguments.ways.split(","):
        startup, run, right = batched(way, model, selection, task, arguments)
        print(
            f"{way}: start {startup:.1f} s, run {run:.1f} s ({len(inputs) / run:.0f}/s, "
            f"{right:.1%} right)"
        )
        for name, (loading, alone) in loops.items():
            print(
                f"  against {name}: {alone / run:.1f} times as fast, "
                f"{(loading + alone) / (startup + run):.1f} times with start-up"
            )


if __name__ == "__main__":
    main()
