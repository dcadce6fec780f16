"""The work itself: keep the teacher busy until every input has its verdict in the journal."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager

from prompt_distillation.data.inputs import Input
from prompt_distillation.engines.base import (
    Engine,
    Request,
    RequestFailedError,
    RequestRefusedError,
    Sampling,
)
from prompt_distillation.labelling.attempts import Attempt
from prompt_distillation.labelling.journal import Journal
from prompt_distillation.labelling.keys import ContentKeys, Teacher, request_seed
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.labelling.votes import Ballots, Step, Verdict
from prompt_distillation.tasks import ChatMessage, Task

OpenTeacher = Callable[[], AbstractAsyncContextManager[Engine]]
"""Loads the teacher when it is called: not before there is work for it."""

Work = tuple[Input, bytes]


class Labeller:
    """Asks a teacher for what the journal does not hold yet.

    Args:
        task: its prompt and the rule by which answers are read.
        teacher: how completions are drawn.
        ballots: what is still needed for an input.
        keys: of the inputs.
        journal: open for writing.
        progress: told of every input that is done.
    """

    def __init__(
        self,
        *,
        task: Task,
        teacher: Teacher,
        ballots: Ballots,
        keys: ContentKeys,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._task = task
        self._teacher = teacher
        self._ballots = ballots
        self._keys = keys
        self._journal = journal
        self._progress = progress
        self._in_work: set[bytes] = set()

    async def label(self, inputs: Iterable[Input], open_teacher: OpenTeacher) -> None:
        """Label ``inputs``, a stream of any length; the teacher is loaded if one needs it.

        Raises:
            EngineError: the teacher is gone. What it wrote until then is in the journal.
            OutputWriteError: the disk is full; likewise.
        """
        work = self._unfinished(inputs)
        first = next(work, None)
        if first is None:
            return
        async with open_teacher() as engine:
            await self._drain(engine, itertools.chain([first], work))

    async def label_with(self, engine: Engine, inputs: Iterable[Input]) -> None:
        """As `label`, with a teacher that is loaded already."""
        await self._drain(engine, self._unfinished(inputs))

    def _unfinished(self, inputs: Iterable[Input]) -> Iterator[Work]:
        """The inputs that need the teacher; duplicates of one another only once."""
        for item in inputs:
            key = self._keys.of(item)
            if key in self._in_work:
                self._progress.skip()
                continue
            if key in self._journal:
                verdict = self._ballots.assess(self._journal.attempts(key))
                if isinstance(verdict, Verdict):
                    self._progress.skip()
                    continue
            yield item, key

    async def _drain(self, engine: Engine, work: Iterator[Work]) -> None:
        slots = asyncio.Semaphore(engine.concurrency)
        self._progress.start()

        async def serve() -> None:
            for item, key in work:
                self._in_work.add(key)
                verdict = await self._label_one(engine, slots, item, key)
                self._in_work.discard(key)
                self._progress.count(verdict)

        try:
            async with asyncio.TaskGroup() as group:
                reporter = group.create_task(self._report())
                await asyncio.wait([group.create_task(serve()) for _ in range(engine.concurrency)])
                reporter.cancel()
        except ExceptionGroup as errors:
            raise _first_of(errors) from None
        finally:
            self._progress.show()

    async def _report(self) -> None:
        """Show progress now and then, each time after what it counts is on the disk."""
        while True:
            await asyncio.sleep(self._progress.interval_seconds)
            await asyncio.to_thread(self._journal.sync)
            self._progress.show()

    async def _label_one(
        self, engine: Engine, slots: asyncio.Semaphore, item: Input, key: bytes
    ) -> Verdict:
        messages = self._task.conversation(item.text, history=item.history, with_prompt=True)
        attempts = self._journal.attempts(key) if key in self._journal else []
        while True:
            outcome = self._ballots.assess(attempts)
            if isinstance(outcome, Verdict):
                return outcome
            asked = [
                self._ask(engine, slots, key, self._request(messages, key, step), step)
                for step in outcome
            ]
            if len(asked) == 1:
                attempts.append(await asked[0])
                continue
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in asked]
            attempts += [task.result() for task in tasks]

    def _request(self, messages: tuple[ChatMessage, ...], key: bytes, step: Step) -> Request:
        sampling = Sampling(
            temperature=step.temperature,
            top_p=self._teacher.top_p,
            max_tokens=step.max_tokens,
            max_thinking_tokens=self._teacher.max_thinking_tokens,
            seed=request_seed(self._teacher.seed, key, vote=step.vote, attempt=step.attempt),
        )
        return Request(messages=messages, sampling=sampling)

    async def _ask(
        self, engine: Engine, slots: asyncio.Semaphore, key: bytes, request: Request, step: Step
    ) -> Attempt:
        """One completion, in the journal before it is returned."""
        completion, error, refused = None, None, False
        async with slots:
            try:
                completion = await engine.complete(request)
            except RequestFailedError as failure:
                error, refused = str(failure), isinstance(failure, RequestRefusedError)
        attempt = Attempt(
            vote=step.vote,
            attempt=step.attempt,
            temperature=step.temperature,
            max_tokens=step.max_tokens,
            completion=completion,
            error=error,
            refused=refused,
        )
        self._journal.append(key, attempt)
        return attempt


def _first_of(errors: BaseException) -> BaseException:
    """The first of what went wrong at once, which is nearly always the cause of the rest."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
