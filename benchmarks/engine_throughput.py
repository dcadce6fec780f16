"""What batching and the prefix cache bring: one engine, one prompt, thousands of inputs.

    python benchmarks/engine_throughput.py                       # about two minutes on two cores
    python benchmarks/engine_throughput.py --inputs 64 --one_by_one 8        # a quick look
    python benchmarks/engine_throughput.py --engine transformers --inputs 256
    python benchmarks/engine_throughput.py --engine transformers --inputs 256 --continuous 16

The same inputs under the same task prompt, in one run: many in flight (as labelling does), one
request at a time, and many in flight with the prefix cache off. Tokens computed are those of the
prompt that did not come from the cache, and those written. Completions are cut at --max_tokens.
With --continuous, so many of the inputs also go through transformers' own continuous batching
(`generate_batch`, sdpa), which is what our transformers engine stands in for.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from random_model import drawn_where_missing
from rich.console import Console
from rich.table import Table

from prompt_distillation.data.files import read_lines
from prompt_distillation.engines import (
    Completion,
    Engine,
    EngineOptions,
    Request,
    Sampling,
    open_engine,
    stream,
)
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.tasks import load_task

CONTINUOUS = "continuous batching of transformers"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of answering the inputs."""

    inputs: int
    seconds: float
    inputs_per_second: float
    prompt_tokens_per_input: float
    computed_prompt_tokens_per_input: float
    written_tokens_per_input: float
    failed: int


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="example-models/teacher")
    parser.add_argument("--engine", default="auto", choices=["auto", "vllm", "transformers"])
    parser.add_argument("--task", type=Path, default=Path("tasks/language"))
    parser.add_argument("--input_file", type=Path, default=Path("example-data/multilingual.txt"))
    parser.add_argument("--inputs", type=int, default=2000, help="how many, taken round and round")
    parser.add_argument("--one_by_one", type=int, default=64, help="how many one at a time")
    parser.add_argument(
        "--continuous", type=int, default=0, help="how many by transformers' continuous batching"
    )
    parser.add_argument("--max_tokens", type=int, default=64, help="most new tokens an input")
    parser.add_argument("--tensor_parallel_size", type=int, default=1)
    parser.add_argument("--output_file", type=Path, help="where the JSON goes, besides the table")
    return parser.parse_args()


def requests(options: argparse.Namespace, count: int) -> Iterator[tuple[int, Request]]:
    """``count`` numbered requests; no two are equal, or the cache would answer whole prompts."""
    task = load_task(options.task)
    lines = [line for _, line in read_lines(options.input_file) if line]
    sampling = Sampling(temperature=0.15, max_tokens=options.max_tokens)
    for number, line in enumerate(itertools.islice(itertools.cycle(lines), count)):
        round_of = number // len(lines)
        text = line if not round_of else f"{line} ({round_of})"
        yield (
            number,
            Request(
                messages=task.conversation(text, with_prompt=True),
                sampling=replace(sampling, seed=number),
            ),
        )


async def many_in_flight(engine: Engine, options: argparse.Namespace) -> Measured:
    """All inputs through `stream`."""
    started = time.perf_counter()
    results = [result async for _, result in stream(engine, requests(options, options.inputs))]
    return measured(results, time.perf_counter() - started)


async def one_by_one(engine: Engine, options: argparse.Namespace) -> Measured:
    """Each input only when the one before it is answered."""
    started = time.perf_counter()
    results = [
        await engine.complete(request) for _, request in requests(options, options.one_by_one)
    ]
    return measured(results, time.perf_counter() - started)


def measured(results: list[object], seconds: float) -> Measured:
    """Rates and means of what was completed."""
    done = [result for result in results if isinstance(result, Completion)]
    prompt = sum(result.prompt_tokens for result in done)
    cached = sum(result.cached_tokens or 0 for result in done)
    return Measured(
        inputs=len(done),
        seconds=seconds,
        inputs_per_second=len(done) / seconds,
        prompt_tokens_per_input=prompt / len(done),
        computed_prompt_tokens_per_input=(prompt - cached) / len(done),
        written_tokens_per_input=sum(result.completion_tokens for result in done) / len(done),
        failed=len(results) - len(done),
    )


def continuous_batching(options: argparse.Namespace) -> Measured:
    """The first inputs through `generate_batch` of transformers.

    With room for 1,500 blocks of keys and values: by default it takes what fits into the memory,
    and on a CPU each step then takes longer the more memory there is.
    """
    from transformers import AutoModelForCausalLM
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    encoder = PromptEncoder.of(EngineOptions(model=options.model))
    prompts = [encoder.encode(request) for _, request in requests(options, options.continuous)]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto").eval()
    config = model.generation_config
    config.do_sample, config.temperature = True, 0.15
    started = time.perf_counter()
    outputs = model.generate_batch(
        prompts,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=1500, max_batch_tokens=2048),
        max_new_tokens=options.max_tokens,
    )
    seconds = time.perf_counter() - started
    count = len(outputs)
    tokens = sum(map(len, prompts)) / count
    return Measured(
        inputs=count,
        seconds=seconds,
        inputs_per_second=count / seconds,
        prompt_tokens_per_input=tokens,
        computed_prompt_tokens_per_input=tokens,
        written_tokens_per_input=sum(len(o.generated_tokens) for o in outputs.values()) / count,
        failed=len(prompts) - count,
    )


async def warm_up(engine: Engine, options: argparse.Namespace) -> None:
    """First requests pay for what later ones find ready, the shared prompt included."""
    async for _ in stream(engine, requests(options, 4)):
        pass


async def measure(options: argparse.Namespace) -> dict[str, Measured]:
    """Each way, on engines started one after the other."""
    engine_options = EngineOptions(
        model=options.model, tensor_parallel_size=options.tensor_parallel_size
    )
    results = {}
    async with open_engine(options.engine, engine_options) as engine:
        await warm_up(engine, options)
        results["many in flight"] = await many_in_flight(engine, options)
        results["one at a time"] = await one_by_one(engine, options)
    without = replace(engine_options, prefix_caching=False)
    async with open_engine(options.engine, without) as engine:
        await warm_up(engine, options)
        results["many, no prefix cache"] = await many_in_flight(engine, options)
    if options.continuous:
        results[CONTINUOUS] = await asyncio.to_thread(continuous_batching, options)
    return results


def show(results: dict[str, Measured]) -> dict[str, float]:
    """Print the table; returns the ratios under it."""
    table = Table("", "inputs", "seconds", "inputs/s", "prompt tokens", "computed", "written")
    for name, one in results.items():
        table.add_row(
            name, str(one.inputs), f"{one.seconds:.1f}", f"{one.inputs_per_second:.1f}",
            f"{one.prompt_tokens_per_input:.0f}", f"{one.computed_prompt_tokens_per_input:.0f}",
            f"{one.written_tokens_per_input:.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    many, single, uncached = list(results.values())[:3]
    ratios = {
        "many_against_one_at_a_time": many.inputs_per_second / single.inputs_per_second,
        "cache_against_none": many.inputs_per_second / uncached.inputs_per_second,
        "prompt_tokens_computed_without_against_with_cache": (
            uncached.computed_prompt_tokens_per_input / many.computed_prompt_tokens_per_input
        ),
    }
    if CONTINUOUS in results:
        continuous = results[CONTINUOUS].inputs_per_second
        ratios["many_against_continuous_batching"] = many.inputs_per_second / continuous
    for name, ratio in ratios.items():
        console.print(f"{name.replace('_', ' ')}: {ratio:.1f} x")
    return ratios


def main() -> None:
    """Measure, print, and write the JSON if asked to."""
    options = parse_arguments()
    with drawn_where_missing():
        results = asyncio.run(measure(options))
    ratios = show(results)
    report = {name: asdict(one) for name, one in results.items()} | {"ratios": ratios}
    if options.output_file:
        options.output_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
