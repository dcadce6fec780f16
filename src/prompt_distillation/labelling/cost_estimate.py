"""Before a run is paid for: three prompts as the teacher reads them, and an estimate of the cost.

The estimate scales up what labelling a few inputs takes (a probe, kept in the journal).
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.text import safe_lines
from prompt_distillation.engines import Engine, engine_options
from prompt_distillation.engines.event_loop import run
from prompt_distillation.engines.prompts import PromptEncoder, shared_prefix_length
from prompt_distillation.labelling.dataset import Counts, Outcomes
from prompt_distillation.labelling.input_spool import InputSpool, WorkItem
from prompt_distillation.labelling.labeller import Labeller, OpenTeacher
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.tasks import ChatMessage, Task

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 3
COUNTED = 500
"""Inputs whose prompt tokens are counted; more would take longer than they teach."""


@dataclass(frozen=True, kw_only=True)
class PromptReader:
    """How the teacher reads a conversation."""

    render: Callable[[Sequence[ChatMessage]], str]
    count_tokens: Callable[[str], int] | None
    gpus: int = 0


def open_prompt_reader(config: LabelConfig) -> PromptReader:
    """Load the teacher's tokenizer and chat template."""
    if config.engine.engine == "server":
        # Its template is the server's own; the turns are what we know.
        return PromptReader(
            render=lambda turns: "\n\n".join(f"[{t['role']}]\n{t['content']}" for t in turns),
            count_tokens=None,
        )
    import torch

    # A cluster's GPUs are elsewhere.
    has_gpus = config.engine.ray_address is not None or torch.cuda.is_available()
    encoder = PromptEncoder.of(engine_options(config.model, config.engine))
    return PromptReader(
        render=encoder.render,
        count_tokens=lambda text: len(encoder.tokenizer.encode(text, add_special_tokens=False)),
        gpus=config.engine.tensor_parallel_size if has_gpus else 0,
    )


def show_prompts(task: Task, inputs: InputSpool, reader: PromptReader, console: "Console") -> None:
    """Show the first prompt whole, of two others what differs, and how long prompts are."""
    prompts = [
        reader.render(task.conversation(item.text, history=item.history, with_prompt=True))
        for item, *_ in inputs.sample(COUNTED)
    ]
    wanted = min(SHOWN, len(prompts))
    shown = [prompts[number * len(prompts) // wanted] for number in range(wanted)]
    shared = shared_prefix_length(shown)
    for number, prompt in enumerate(shown, start=1):
        console.rule(f"prompt {number} of {wanted}")
        text = (
            prompt if number == 1 else f"[... {shared:,} characters as above ...]{prompt[shared:]}"
        )
        console.print(safe_lines(text), markup=False, highlight=False, soft_wrap=True)
    console.rule()
    console.print(f"inputs      {inputs.count:,}", highlight=False)
    if reader.count_tokens is not None:
        tokens = [reader.count_tokens(prompt) for prompt in prompts]
        console.print(
            f"prompt      {sum(tokens) / len(tokens):,.0f} tokens a request on average, "
            f"{max(tokens):,} at most (over {len(tokens):,} inputs)",
            highlight=False,
        )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What labelling a few inputs showed.

    Attributes:
        counts: what the distinct ones of them cost.
        seconds: of the teacher's work, without its loading; None if the journal had some of them.
        unfinished: distinct inputs of the whole file that the teacher is still to be asked for.
    """

    counts: Counts
    seconds: float | None
    unfinished: int


def run_probe(
    labeller: Labeller,
    *,
    inputs: InputSpool,
    sample: Sequence[WorkItem],
    outcomes: Outcomes,
    progress: Progress,
    open_teacher: OpenTeacher,
) -> Probe:
    """Label ``sample`` as the run itself would; what is paid for stays in the journal."""
    ready: list[float] = []

    @asynccontextmanager
    async def timed_teacher() -> AsyncIterator[Engine]:
        async with open_teacher() as engine:
            ready.append(time.perf_counter())
            yield engine
            ready.append(time.perf_counter())

    with progress.shown():
        run(labeller.label(sample, timed_teacher))
    measured = bool(ready) and not progress.done_before
    unfinished = sum(1 for _ in labeller.unfinished(inputs))
    counts = Counts()
    for key in dict.fromkeys(item.key for item in sample):
        counts.inputs += 1
        counts.add_cost(outcomes.take(key)[0])
    seconds = ready[1] - ready[0] if measured else None
    return Probe(counts=counts, seconds=seconds, unfinished=unfinished)


def estimate_lines(probe: Probe, config: LabelConfig, *, gpus: int) -> list[str]:
    """What the rest of the run will take, one fact a line."""
    counts, scale = probe.counts, probe.unfinished / probe.counts.inputs
    input_tokens, output_tokens = counts.prompt_tokens * scale, counts.completion_tokens * scale
    lines = [
        f"probe       {counts.inputs} inputs: {counts.requests / counts.inputs:.2f} requests per "
        "input (retries and votes included), "
        f"{counts.completion_tokens / counts.inputs:,.0f} new tokens per input; kept in "
        "the journal",
        f"to label    {probe.unfinished:,} distinct inputs: about {input_tokens:,.0f} prompt "
        f"tokens and {output_tokens:,.0f} new ones",
    ]
    if probe.seconds is None:
        lines.append("time        not measured: part of the probe was already in the journal")
    else:
        hours = probe.seconds * scale / 3600
        lines.append(
            f"time        at most {hours:,.2f} hours of one teacher at the probe's speed; a full "
            "run keeps more requests in flight and is faster"
        )
        if gpus:
            lines.append(f"GPU hours   at most {hours * gpus:,.2f}")
            if config.price_per_gpu_hour is not None:
                lines.append(f"cost        at most {hours * gpus * config.price_per_gpu_hour:,.2f}")
    if config.price_per_gpu_hour is not None and not gpus:
        lines.append(
            "cost        not per hour: the teacher does not run on a GPU of this machine, so "
            "--price_per_gpu_hour is not used"
        )
    cost = config.prices.cost(input_tokens=input_tokens, output_tokens=output_tokens)
    if cost is not None:
        lines.append(f"cost        about {cost:,.2f} at the price per token")
    return lines
