"""The transformers engine: runs wherever torch does, and batches the requests in flight.

It computes the prompt that all requests share once, keeps one copy of it for all rows of a batch
(`generation`, `prefix_attention`), and hands each completion over when it ends. transformers has
continuous batching of its own; on the example task, on two cores without a GPU, transformers 5.19's
``generate_batch`` (sdpa) does 1.0 inputs/s where this engine does 29.5::

    python benchmarks/engine_throughput.py --engine transformers --inputs 256 --continuous 16
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM

from prompt_distillation.checkpoints import check_model, merged_in_memory
from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    Request,
    RequestFailedError,
    Sampling,
)
from prompt_distillation.engines.prompts import PromptEncoder, end_of_turn_ids, load_tokenizer
from prompt_distillation.engines.transformers_generation import BatchGenerator, Marks, Row
from prompt_distillation.errors import EngineError, ModelError
from prompt_distillation.machine import choose_device
from prompt_distillation.tasks import END_OF_THINKING, START_OF_THINKING

logger = logging.getLogger(__name__)

BATCH_SIZE = 32

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Job:
    """A request in flight; times are of `time.perf_counter`, in seconds."""

    prompt: list[int]
    sampling: Sampling
    done: asyncio.Future[Completion]
    on_text: Callable[[str], None] | None
    submitted: float = field(default_factory=time.perf_counter)
    first_token: float | None = None


@dataclass(slots=True, eq=False)
class _Question:
    """A prompt and the tokens whose probabilities after it are asked for."""

    prompt: list[int]
    token_ids: Sequence[int]
    done: asyncio.Future[list[float]]


_Work = _Job | _Question


class TransformersEngine:
    """A model of transformers in this process.

    Requests that are in flight together are generated together, in a thread.
    """

    name = "transformers"

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions) -> None:
        self.concurrency = options.max_concurrency or 2 * BATCH_SIZE
        self._batch_size = min(BATCH_SIZE, self.concurrency)
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(
            tokenizer, model=options.model, chat_template_kwargs=options.chat_template_kwargs
        )
        self._marks = _marks(model, tokenizer)
        own_length = model.config.get_text_config().max_position_embeddings
        self._max_length: int = min(options.max_model_len or own_length, own_length)
        self._generator = BatchGenerator(
            model, pad_token_id=tokenizer.pad_token_id or 0, prefix_caching=options.prefix_caching
        )
        self._pending: list[_Work] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._runner = asyncio.create_task(self._run())

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation, together with whatever else is in flight."""
        if request.sampling.json_schema is not None:
            raise EngineError(
                "the transformers engine cannot decode by a JSON Schema; use --engine vllm or "
                "server, or --decoding free"
            )
        prompt = self._encoder.encode(request)
        self._check_length(prompt)
        done = asyncio.get_running_loop().create_future()
        job = _Job(prompt, request.sampling, done, request.on_text)
        self._submit(job)
        return await job.done

    async def next_token_logprobs(self, prompt: list[int], token_ids: Sequence[int]) -> list[float]:
        """See `engines.scoring.TokenScorer`."""
        self._check_length(prompt)
        question = _Question(prompt, token_ids, asyncio.get_running_loop().create_future())
        self._submit(question)
        return await question.done

    def _check_length(self, prompt: Sequence[int]) -> None:
        if len(prompt) >= self._max_length:
            raise RequestFailedError(
                f"the prompt has {len(prompt)} tokens and leaves no room for an answer: the limit "
                f"of both together is {self._max_length}; shorten the prompt or the input, or "
                "raise --max_model_len if it is set"
            )

    def _submit(self, work: _Work) -> None:
        if self._closing:
            raise EngineError("the transformers engine is closed")
        self._pending.append(work)
        self._wake.set()

    async def aclose(self) -> None:
        """Stop after the token in progress and let go of the model."""
        self._closing = True
        self._wake.set()
        await self._runner
        _fail(self._pending, EngineError("the transformers engine was closed"))
        self._pending.clear()

    async def _run(self) -> None:
        while not self._closing:
            await self._wake.wait()
            # Let every caller that is ready submit first: a batch of one is the most expensive.
            await asyncio.sleep(0)
            self._pending = [job for job in self._pending if not job.done.done()]
            if not self._pending:
                self._wake.clear()
                continue
            batch = self._take_batch()
            try:
                await asyncio.to_thread(self._work_through, batch, asyncio.get_running_loop())
            except torch.OutOfMemoryError as error:
                self._shrink(batch, error)
            except Exception as error:
                logger.debug("a batch of %d failed", len(batch), exc_info=True)
                _fail(batch, EngineError(f"generation failed: {type(error).__name__}: {error}"))
            else:
                # Only closing leaves some of a batch unfinished.
                _fail(batch, EngineError("the transformers engine was closed"))

    def _take_batch(self) -> list[_Work]:
        """The oldest request and those of its kind nearest to it in length, so as to pad little."""
        alike = [job for job in self._pending if type(job) is type(self._pending[0])]
        ordered = sorted(alike, key=lambda job: len(job.prompt))
        at = ordered.index(self._pending[0])
        start = max(0, min(at - self._batch_size // 2, len(ordered) - self._batch_size))
        batch = ordered[start : start + self._batch_size]
        self._pending = [job for job in self._pending if job not in batch]
        return batch

    def _shrink(self, batch: list[_Work], error: Exception) -> None:
        """Try again with half the batch; a single request that does not fit has failed."""
        if len(batch) == 1:
            _fail(batch, RequestFailedError(f"out of memory on a single request: {error}"))
            return
        self._batch_size = len(batch) // 2
        logger.warning("out of memory: going on with batches of %d", self._batch_size)
        torch.cuda.empty_cache()
        self._pending = batch + self._pending

    def _work_through(self, batch: Sequence[_Work], loop: asyncio.AbstractEventLoop) -> None:
        """Write or score a batch, whose members are of one kind; runs in a thread."""
        questions = [work for work in batch if isinstance(work, _Question)]
        if not questions:
            self._generate([work for work in batch if isinstance(work, _Job)], loop)
            return
        rows = self._generator.next_token_logprobs(
            [question.prompt for question in questions],
            [question.token_ids for question in questions],
        )
        for question, row in zip(questions, rows, strict=True):
            loop.call_soon_threadsafe(_deliver, question.done, row)

    def _generate(self, batch: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> None:
        rows = [self._row(job) for job in batch]

        def on_token(index: int) -> None:
            job, row = batch[index], rows[index]
            if job.first_token is None:
                job.first_token = time.perf_counter()
            if row.finish_reason is not None:
                loop.call_soon_threadsafe(_deliver, job.done, self._completion(job, row))
            elif job.on_text is not None:
                loop.call_soon_threadsafe(job.on_text, self._encoder.decode(row.token_ids))

        self._generator.run(
            [job.prompt for job in batch],
            rows,
            on_token=on_token,
            is_dropped=lambda index: self._closing or batch[index].done.done(),
        )

    def _row(self, job: _Job) -> Row:
        choices = job.sampling.choices
        return Row(
            sampling=job.sampling,
            marks=self._marks,
            max_new_tokens=min(job.sampling.max_tokens, self._max_length - len(job.prompt)),
            choices=None
            if choices is None
            else [self._tokenizer.encode(text, add_special_tokens=False) for text in choices],
            thinking=self._marks.opens_thinking(job.prompt),
        )

    def _completion(self, job: _Job, row: Row) -> Completion:
        assert row.finish_reason is not None
        now, top = time.perf_counter(), job.sampling.top_logprobs
        return Completion(
            text=self._encoder.decode(row.token_ids),
            finish_reason=row.finish_reason,
            prompt_tokens=len(job.prompt),
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            seconds=now - job.submitted,
            first_token_seconds=(job.first_token or now) - job.submitted,
            logprobs=AnswerLogprobs.of(row.scores, top=top) if top else None,
        )


async def start_transformers(options: EngineOptions) -> TransformersEngine:
    """Load the model (and merge its adapter, in memory) and start the engine."""
    model = await asyncio.to_thread(load_model, options)
    return TransformersEngine(model, load_tokenizer(options), options)


def load_model(options: EngineOptions) -> Any:
    """Load a model for inference, its adapter merged in memory.

    Raises:
        EngineError: no such device here.
        ModelError: the model or the adapter cannot be loaded.
    """
    check_model(options.model)
    device = choose_device(options.device, options.tensor_parallel_size)
    dtype: Any = options.dtype
    if dtype == "auto" and device == "cuda":
        dtype = torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            options.model,
            revision=options.revision,
            dtype=dtype,
            device_map="auto" if device == "cuda" else None,
            trust_remote_code=options.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model {options.model}: {error}") from error
    if options.adapter is not None:
        model = merged_in_memory(model, options.adapter)
    return model.eval()


def _marks(model: Any, tokenizer: Any) -> Marks:
    return Marks(
        end_of_turn=end_of_turn_ids(tokenizer, model.generation_config),
        start_of_thinking=tuple(tokenizer.encode(START_OF_THINKING, add_special_tokens=False)),
        end_of_thinking=tuple(tokenizer.encode(END_OF_THINKING, add_special_tokens=False)),
    )


def _deliver(done: "asyncio.Future[Result]", result: Result) -> None:
    if not done.done():
        done.set_result(result)


def _fail(batch: Sequence[_Work], error: EngineError) -> None:
    for work in batch:
        if not work.done.done():
            work.done.set_exception(error)
