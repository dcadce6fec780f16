"""What a run will cost, before it is paid: tokens, GPU-hours and money, from a small probe."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prompt_distillation.data.inputs import Input
from prompt_distillation.engines.base import Engine
from prompt_distillation.labelling.counts import Counts
from prompt_distillation.labelling.job import Job
from prompt_distillation.labelling.journal import Journal
from prompt_distillation.labelling.labeller import Labeller, OpenTeacher
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.labelling.run import run_until_stopped
from prompt_distillation.labelling.votes import Verdict


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What the teacher costs, in any one currency; None where it is not known.

    Attributes:
        per_gpu_hour: of one GPU.
        per_million_input_tokens: of a server, prompt tokens.
        per_million_output_tokens: of a server, completion tokens.
    """

    per_gpu_hour: float | None = None
    per_million_input_tokens: float | None = None
    per_million_output_tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What labelling a few inputs showed.

    Attributes:
        counts: of the completions of the probed inputs.
        inputs: how many were probed.
        seconds: the teacher worked for, its loading left out; None if the journal had them all.
    """

    counts: Counts
    inputs: int
    seconds: float | None


def spread(job: Job, total: int, wanted: int) -> list[Input]:
    """At most ``wanted`` of the job's ``total`` inputs, evenly spaced, in order."""
    wanted = min(wanted, total)
    indexes = {number * total // wanted for number in range(wanted)} if wanted else set()
    return [item for item in job.source.read() if item.index in indexes]


def count_unfinished(job: Job, journal: Journal) -> int:
    """How many distinct inputs still need the teacher; 16 bytes of memory and a little for each."""
    keys, ballots = job.keys(job.teacher.identity(job.task)), job.ballots()
    unfinished: set[bytes] = set()
    for item in job.source.read():
        key = keys.of(item)
        if not isinstance(ballots.assess(journal.attempts(key)), Verdict):
            unfinished.add(key)
    return len(unfinished)


def run_probe(job: Job, journal: Journal, inputs: Sequence[Input], teacher: OpenTeacher) -> Probe:
    """Label ``inputs`` as the run itself would; what is paid for stays in the journal.

    Raises:
        EngineError: the teacher cannot be had.
    """
    ready: list[float] = []

    @asynccontextmanager
    async def timed_teacher() -> AsyncIterator[Engine]:
        async with teacher() as engine:
            ready.append(time.perf_counter())
            yield engine
            ready.append(time.perf_counter())

    keys = job.keys(job.teacher.identity(job.task))
    progress = Progress(len(inputs))
    labeller = Labeller(
        task=job.task,
        teacher=job.teacher,
        ballots=job.ballots(),
        keys=keys,
        journal=journal,
        progress=progress,
    )
    with progress.shown():
        run_until_stopped(labeller.label(inputs, timed_teacher))
    counts = Counts()
    for key in {keys.of(item) for item in inputs}:
        counts.inputs += 1
        counts.add_attempts(journal.attempts(key))
    seconds = ready[1] - ready[0] if ready and progress.labelled == counts.inputs else None
    return Probe(counts=counts, inputs=counts.inputs, seconds=seconds)


def estimate_lines(probe: Probe, unfinished: int, *, gpus: int, prices: Prices) -> list[str]:
    """What the rest of the run will take, one fact a line.

    Args:
        probe: of at least one input.
        unfinished: distinct inputs that the run will ask the teacher for.
        gpus: that share one copy of the teacher; 0 for a server or a CPU.
        prices: where they are known.
    """
    counts, scale = probe.counts, unfinished / probe.inputs
    input_tokens, output_tokens = counts.prompt_tokens * scale, counts.completion_tokens * scale
    lines = [
        f"probe       {probe.inputs} inputs: {counts.requests / probe.inputs:.2f} requests an input"
        f" (retries and votes included), {counts.completion_tokens / probe.inputs:,.0f} new tokens"
        " an input; kept in the journal",
        f"to label    {unfinished:,} distinct inputs: about {input_tokens:,.0f} prompt tokens and "
        f"{output_tokens:,.0f} new ones",
    ]
    if probe.seconds is None:
        lines.append("time        not measured: some of the probe was in the journal already")
    else:
        hours = probe.seconds * scale / 3600
        lines.append(
            f"time        at most {hours:,.2f} hours of one teacher at the probe's pace; a full "
            "run keeps more requests in flight and is faster"
        )
        if gpus:
            lines.append(f"GPU-hours   at most {hours * gpus:,.2f}")
            if prices.per_gpu_hour is not None:
                lines.append(f"money       at most {hours * gpus * prices.per_gpu_hour:,.2f}")
    if prices.per_gpu_hour is not None and not gpus:
        lines.append(
            "money       not by the hour: the teacher runs on no GPU of this machine, so "
            "--price_per_gpu_hour is not used"
        )
    if prices.per_million_output_tokens is not None:
        money = output_tokens * prices.per_million_output_tokens
        money += input_tokens * (prices.per_million_input_tokens or 0.0)
        lines.append(f"money       about {money / 1e6:,.2f} by the token")
    return lines
