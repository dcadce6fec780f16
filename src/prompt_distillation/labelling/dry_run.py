"""A look before a run: three prompts as the teacher will read them, their tokens, the estimate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from prompt_distillation.data.inputs import Input
from prompt_distillation.data.text import safe_for_terminal
from prompt_distillation.engines.prompts import shared_prefix_length
from prompt_distillation.labelling.estimate import (
    Prices,
    count_unfinished,
    estimate_lines,
    run_probe,
    spread,
)
from prompt_distillation.labelling.job import Job
from prompt_distillation.labelling.labeller import OpenTeacher
from prompt_distillation.labelling.run import open_for_probe
from prompt_distillation.labelling.sources import take_census
from prompt_distillation.tasks import ChatMessage

SHOWN = 3
COUNTED = 500
"""Inputs whose prompt tokens are counted; more would take longer than they teach."""

Conversation = Sequence[ChatMessage]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a dry run may do.

    Attributes:
        render: a conversation as the teacher reads it.
        count_tokens: of a rendered conversation; None where only a server knows.
        probe_samples: inputs to label for the estimate; 0 loads no teacher.
        gpus: that share one copy of the teacher; 0 for a server or a CPU.
        prices: of the teacher.
    """

    render: Callable[[Conversation], str]
    count_tokens: Callable[[str], int] | None
    probe_samples: int
    gpus: int = 0
    prices: Prices = field(default_factory=Prices)


def dry_run(job: Job, open_teacher: OpenTeacher, look: Look, console: Console) -> None:
    """Show what a run would send and cost; nothing is written but the probe's journal.

    Raises:
        InputError, TaskError: an input that cannot be taken.
        OutputBusyError: another process works on the same output.
        EngineError: the teacher for the probe cannot be had.
    """
    census = take_census(job.source, job.task, job.shard)
    counted = spread(job, census.inputs, COUNTED)
    prompts = [look.render(_conversation(job, item)) for item in counted]
    _show(prompts, console)
    console.print(f"inputs      {census.inputs:,}", highlight=False)
    if look.count_tokens is not None:
        tokens = [look.count_tokens(prompt) for prompt in prompts]
        console.print(
            f"prompt      {sum(tokens) / len(tokens):,.0f} tokens a request on average, "
            f"{max(tokens):,} at most (over {len(tokens):,} inputs)",
            highlight=False,
        )
    if look.probe_samples:
        with open_for_probe(job) as journal:
            sample = spread(job, census.inputs, look.probe_samples)
            probe = run_probe(job, journal, sample, open_teacher)
            unfinished = count_unfinished(job, journal)
        for line in estimate_lines(probe, unfinished, gpus=look.gpus, prices=look.prices):
            console.print(line, highlight=False, soft_wrap=True)


def _conversation(job: Job, item: Input) -> Conversation:
    return job.task.conversation(item.text, history=item.history, with_prompt=True)


def _show(prompts: Sequence[str], console: Console) -> None:
    """The first prompt whole; of the others what differs."""
    wanted = min(SHOWN, len(prompts))
    shown = [prompts[number * len(prompts) // wanted] for number in range(wanted)]
    shared = shared_prefix_length(shown)
    for number, prompt in enumerate(shown, start=1):
        console.rule(f"prompt {number} of {wanted}")
        text = (
            prompt if number == 1 else f"[... {shared:,} characters as above ...]{prompt[shared:]}"
        )
        # Line by line: a prompt's own lines are to be seen as such.
        safe = "\n".join(map(safe_for_terminal, text.split("\n")))
        console.print(safe, markup=False, highlight=False, soft_wrap=True)
    console.rule()
