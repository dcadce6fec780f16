"""Labelling against the bare engine, and against one request at a time, in one process.

    python benchmarks/labelling_throughput.py                  # the example teacher, 2,101 inputs
    python benchmarks/labelling_throughput.py --max_samples 200 --one_at_a_time 5    # a quick look

One engine, the same prompts and sampling for all. (bare) Every prompt given to vLLM at once, as
rendered text or, harder to keep up with, as token ids; nothing is decoded. (ours) The same inputs
through labelling: rendering, encoding, decoding, parsing and journal included. The three take
turns, each with seeds of its own, and the median of each counts. Where the model computes on the
very cores that all this runs on, every millisecond of ours is one of the model's.

One request at a time comes in two ways. (same engine) a loop that waits for each of vLLM's answers,
the prompt in its cache: what batching alone brings. (plain loop) `generate` of transformers for
each input, as a script without an engine does it: what most people come from.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from plain_loop import generate_each, load
from random_model import drawn_where_missing

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.engines import Engine, Request, Sampling, engine_options, open_engine
from prompt_distillation.engines.vllm import VllmEngine, _sampling_params
from prompt_distillation.labelling.dataset import Outcomes
from prompt_distillation.labelling.input_spool import read_inputs_once
from prompt_distillation.labelling.journal import digest_of, open_journal
from prompt_distillation.labelling.labeller import Labeller
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.tasks import load_task


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="example-models/teacher")
    parser.add_argument("--max_tokens", type=int, default=256)
    parser.add_argument("--max_samples", type=int, default=2101)
    parser.add_argument("--one_at_a_time", type=int, default=40, help="inputs of the slow loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = vars(parser.parse_args())
    slow_inputs, rounds = arguments.pop("one_at_a_time"), arguments.pop("rounds")
    with tempfile.TemporaryDirectory() as folder:
        config = LabelConfig.of(output_file=Path(folder) / "out.jsonl", max_retries=0, **arguments)
        with drawn_where_missing():
            asyncio.run(measure(config, slow_inputs, rounds))


async def measure(config: LabelConfig, slow_inputs: int, rounds: int) -> None:
    """Run the three ways on one engine."""
    options = engine_options(config.model, config.engine)
    async with open_engine(config.engine.engine, options) as engine:
        assert isinstance(engine, VllmEngine), "the bare engine of this comparison is vLLM"
        await run_bare(engine, requests_of(config, seed=10_000)[:64])
        texts, ids, ours = [], [], []
        for number in range(rounds):
            requests = requests_of(config, seed=number)
            texts.append(len(requests) / await run_bare(engine, requests, encoded=False))
            requests = requests_of(config, seed=rounds + number)
            ids.append(len(requests) / await run_bare(engine, requests))
            ours.append(len(requests) / await run_ours(engine, config, number))
            rates = f"texts {texts[-1]:.1f}, ids {ids[-1]:.1f}, ours {ours[-1]:.1f} inputs/s"
            print(f"round {number}: {rates}", flush=True)
        # Evenly out of the file, whose languages stand one after the other, and differ in length.
        every = requests_of(config, seed=20_000)
        slow = every[:: max(1, len(every) // slow_inputs)]
        started = time.perf_counter()
        completions = [await engine.complete(request) for request in slow]
        one = len(slow) / (time.perf_counter() - started)
    plain = 1 / plain_seconds(config, slow)
    n, rate = len(slow), median(ours)
    total = sum(completion.prompt_tokens for completion in completions)
    cached = sum(completion.cached_tokens or 0 for completion in completions)
    print(f"inputs a round              {len(requests):,}; median of {rounds} rounds")
    print(f"labelling                   {rate:8.1f} inputs/s")
    print(
        f"bare vLLM given texts       {median(texts):8.1f} inputs/s, labelling "
        f"{rate / median(texts):.3f} of it"
    )
    print(
        f"bare vLLM given token ids   {median(ids):8.1f} inputs/s, labelling "
        f"{rate / median(ids):.3f} of it"
    )
    print(f"one at a time (n = {n:,})")
    print(f"  same engine               {one:8.2f} inputs/s, labelling {rate / one:.1f} times")
    print(f"  plain loop of generate    {plain:8.2f} inputs/s, labelling {rate / plain:.1f} times")
    print(f"prompt tokens an input      {total / n:,.0f}, not cached {(total - cached) / n:,.0f}")


def plain_seconds(config: LabelConfig, requests: Sequence[Request]) -> float:
    """Seconds per input of the plain loop, after vLLM has stopped."""
    language_model, tokenizer = load(resolve_model(config.model_name))
    sampling = requests[0].sampling
    return generate_each(
        language_model,
        tokenizer,
        [request.messages for request in requests],
        max_new_tokens=sampling.max_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
    )


def requests_of(config: LabelConfig, *, seed: int) -> list[Request]:
    """The first requests of every input, with seeds of this round."""
    task = load_task(config.task)
    inputs = itertools.islice(read_inputs(config.input_file), config.inputs.max_samples)
    return [
        Request(
            messages=task.conversation(item.text, with_prompt=True),
            sampling=Sampling(
                temperature=config.sampling.temperature,
                top_p=config.sampling.top_p,
                max_tokens=config.max_tokens,
                seed=seed * 100_000 + item.index,
            ),
        )
        for item in inputs
    ]


async def run_bare(
    engine: VllmEngine, requests: Sequence[Request], *, encoded: bool = True
) -> float:
    """Everything at once into vLLM itself, nothing of ours around it; returns seconds.

    Rendering, and with ``encoded`` encoding, is done before the clock starts.
    """
    encoder = engine._encoder
    prompts = [
        {"prompt_token_ids": encoder.encode(request)}
        if encoded
        else {"prompt": encoder.render(request.messages)}
        for request in requests
    ]

    async def complete(number: int) -> None:
        async for _ in engine._llm.generate(
            prompts[number],
            _sampling_params(requests[number].sampling),
            request_id=f"bare-{requests[number].sampling.seed}-{number}",
        ):
            pass

    started = time.perf_counter()
    await asyncio.gather(*(complete(number) for number in range(len(requests))))
    return time.perf_counter() - started


async def run_ours(engine: Engine, config: LabelConfig, number: int) -> float:
    """The labelling of all inputs into a new journal; returns seconds."""
    task, identity = load_task(config.task), {"round": number}
    journal_path = config.output_file.with_name(f"round-{number}.journal.jsonl")
    started = time.perf_counter()
    with (
        read_inputs_once(config, task, settings=digest_of(identity)) as inputs,
        open_journal(identity, writable=journal_path, others=[]) as journal,
        Outcomes(config.output_file.parent) as outcomes,
    ):
        labeller = Labeller(
            task=task,
            config=config,
            journal=journal,
            outcomes=outcomes,
            progress=Progress(inputs.count, interval_seconds=60.0),
        )
        await labeller.ask_for(engine, labeller.unfinished(inputs))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
