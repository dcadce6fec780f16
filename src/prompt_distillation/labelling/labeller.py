"""The work itself: keep the teacher busy until every input has its verdict."""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.data.text import encodable
from prompt_distillation.engines import (
    Engine,
    Request,
    RequestFailedError,
    Sampling,
    alongside,
    gather_or_cancel,
    map_concurrently,
)
from prompt_distillation.engines.base import Completion, RequestRefusedError
from prompt_distillation.labelling.dataset import Outcomes
from prompt_distillation.labelling.input_spool import WorkItem
from prompt_distillation.labelling.journal import Attempt, Journal
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.labelling.votes_and_retries import ReadAttempt, Step, Verdict, Votes
from prompt_distillation.tasks import Task

OpenTeacher = Callable[[], AbstractAsyncContextManager[Engine]]
"""Loads the teacher when it is called: not before there is work for it."""

Unfinished = tuple[WorkItem, list[ReadAttempt]]
"""An input without a verdict, and what the journal holds of it."""


class Labeller:
    """Asks a teacher for what the journal does not hold yet."""

    def __init__(
        self,
        *,
        task: Task,
        config: LabelConfig,
        journal: Journal,
        outcomes: Outcomes,
        progress: Progress,
    ) -> None:
        self._task = task
        self._config = config
        self._votes = Votes(task, config)
        self._journal = journal
        self._outcomes = outcomes
        self._progress = progress
        self._in_work: set[bytes] = set()
        self.engine: str | None = None
        self.startup_seconds = 0.0
        self.requests_made = 0

    async def label(self, inputs: Iterable[WorkItem], open_teacher: OpenTeacher) -> None:
        """Label ``inputs``, a stream of any length; the teacher is loaded if one needs it."""
        work = self.unfinished(inputs)
        first = next(work, None)
        if first is None:
            return
        started = time.monotonic()
        async with open_teacher() as engine:
            self.engine, self.startup_seconds = engine.name, time.monotonic() - started
            await self.ask_for(engine, itertools.chain([first], work))

    def unfinished(self, inputs: Iterable[WorkItem]) -> Iterator[Unfinished]:
        """The inputs without a verdict; of those with the same key, the first.

        The verdicts of the others, which the journal has, are among the outcomes then.
        """
        for item in inputs:
            if item.key in self._in_work or item.key in self._outcomes:
                self._progress.duplicates += 1
                continue
            attempts = [self._votes.read(made) for made in self._journal.attempts(item.key)]
            outcome = self._votes.assess(attempts)
            if isinstance(outcome, Verdict):
                self._outcomes.add(item.key, outcome, attempts)
                self._progress.done_before += 1
                continue
            self._in_work.add(item.key)
            yield item, attempts

    async def ask_for(self, engine: Engine, work: Iterable[Unfinished]) -> None:
        """Ask ``engine`` until all of ``work`` has its verdict."""
        slots = asyncio.Semaphore(engine.concurrency)  # shared by all inputs and their votes

        async def label_one(unfinished: Unfinished) -> Verdict:
            item, attempts = unfinished
            while not isinstance(outcome := self._votes.assess(attempts), Verdict):
                attempts += await gather_or_cancel(
                    [self._ask(engine, slots, item, step) for step in outcome]
                )
            self._outcomes.add(item.key, outcome, attempts)
            self._in_work.discard(item.key)
            return outcome

        self._progress.start()
        verdicts = map_concurrently(label_one, work, limit=engine.concurrency)
        try:
            async with aclosing(verdicts), alongside(self._report()):
                async for verdict in verdicts:
                    self._progress.count(verdict)
        finally:
            self._progress.show()

    async def _report(self) -> None:
        """Show progress now and then, each time after what it counts is on the disk."""
        while True:
            await asyncio.sleep(self._progress.interval_seconds)
            await asyncio.to_thread(self._journal.sync)
            self._progress.show()

    async def _ask(
        self, engine: Engine, slots: asyncio.Semaphore, item: WorkItem, step: Step
    ) -> ReadAttempt:
        """One completion, in the journal before it is returned."""
        completion, error, refused = None, None, False
        request = self._request(item, step)
        async with slots:
            try:
                completion = _without_useless_scores(await engine.complete(request))
            except RequestFailedError as failure:
                error, _ = encodable(str(failure))
                refused = isinstance(failure, RequestRefusedError)
                self._progress.count_failure(error)
        made = Attempt(
            vote=step.vote,
            attempt=step.attempt,
            temperature=step.temperature,
            max_tokens=step.max_tokens,
            completion=completion,
            error=error,
            refused=refused,
        )
        self._journal.append(item.key, made)
        self.requests_made += 1
        return self._votes.read(made)

    def _request(self, item: WorkItem, step: Step) -> Request:
        sampling = self._config.sampling
        drawn = Sampling.of(
            sampling,
            temperature=step.temperature,
            max_tokens=step.max_tokens,
            seed=request_seed(sampling.seed, item.key, vote=step.vote, attempt=step.attempt),
            thinking=self._config.votes.thinking,
            top_logprobs=self._config.top_logprobs,
        )
        is_constrained = self._config.decoding == "constrained"
        return Request(
            messages=self._task.conversation(
                item.input.text, history=item.input.history, with_prompt=True
            ),
            sampling=drawn.constrained_to(self._task.answers) if is_constrained else drawn,
            prefill=sampling.prefill or "",
        )


def _without_useless_scores(completion: Completion) -> Completion:
    """Drop the log-probabilities of a completion that was cut: it holds no answer."""
    scores = completion.logprobs
    if scores is None or completion.finish_reason != "length":
        return completion
    return replace(completion, logprobs=AnswerLogprobs.of((), top=scores.top))


def request_seed(seed: int, key: bytes, *, vote: int, attempt: int) -> int:
    """The seed of one request, in [0, 2**31): by its content, so that its place does not matter."""
    digest = hashlib.sha256(b"%d:%b:%d:%d" % (seed, key, vote, attempt)).digest()
    return int.from_bytes(digest[:4], "big") >> 1
