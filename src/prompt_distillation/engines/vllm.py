"""The vLLM engine: thousands of requests in flight, the shared prompt computed once."""

import asyncio
import gc
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.engines.base import (
    Completion,
    Request,
    RequestFailedError,
    Sampling,
)
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import EngineError
from prompt_distillation.tasks import END_OF_THINKING

OnText = Callable[[str], None] | None

# Without the package: a watchdog has to be small, and to start at once.
SCRIPT = """
import os, signal, sys, time

def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

if sys.stdin.read() != "stopped in order":
    left = [int(pid) for pid in sys.argv[1:]]
    left = [pid for pid in left if send(pid, signal.SIGTERM)]
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [pid for pid in left if send(pid, 0)]
    for pid in left:
        send(pid, signal.SIGKILL)
"""


class Watchdog:
    """Ends vLLM's processes if this one ends without having stopped them, however it ends.

    vLLM stops its processes when it is shut down in order. After ``kill``, or a crash, they would
    stay behind with the model in memory. A small process waits for the end of this one, which
    closes the pipe between them whatever happened, and then ends those that are left.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._process = subprocess.Popen(
            # Isolated and without site-packages: it starts in some 10 ms.
            [sys.executable, "-I", "-S", "-c", SCRIPT, *map(str, pids)],
            stdin=subprocess.PIPE,
            text=True,
            # A session of its own: Ctrl-C and `kill` of the group are not for it.
            start_new_session=True,
        )

    def release(self) -> None:
        """Tell the watchdog that the processes were stopped properly."""
        self._process.communicate("stopped in order")


class VllmEngine:
    """vLLM's asynchronous engine, in processes of its own."""

    name = "vllm"

    def __init__(
        self,
        llm: Any,
        encoder: PromptEncoder,
        *,
        concurrency: int,
        watchdog: Watchdog,
        shutdown_seconds: float,
        lora: Any = None,
        merged: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self.concurrency = concurrency
        self._llm = llm
        self._encoder = encoder
        self._watchdog = watchdog
        self._shutdown_seconds = shutdown_seconds
        self._lora = lora
        self._merged = merged
        self._request_ids = itertools.count()
        # vLLM's imports leave a million objects, which the collector would go through again and
        # again while requests come and go: half a second each time.
        gc.freeze()

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation, batched by vLLM with whatever else is in flight."""
        started = time.perf_counter()
        prompt = self._encoder.encode(request)
        params = _sampling_params(request.sampling, streams=request.on_text is not None)
        thinking = request.sampling.thinking
        if thinking and params.structured_outputs is not None:
            self._check_thinking_token()
        output = await self._generate(prompt, params, thinking=thinking, on_text=request.on_text)
        return _completion(
            output,
            self._encoder,
            prompt_tokens=len(prompt),
            started=started,
            top=request.sampling.top_logprobs,
        )

    def _check_thinking_token(self) -> None:
        """See that vLLM can tell where reasoning ends; it looks for one token."""
        tokenizer = self._encoder.tokenizer
        if tokenizer.convert_tokens_to_ids(END_OF_THINKING) in (None, tokenizer.unk_token_id):
            raise EngineError(
                f"{END_OF_THINKING} is not one token of this model's, so vLLM cannot constrain the "
                "answer after the reasoning; use --decoding free"
            )

    async def _generate(
        self, prompt: list[int], params: Any, *, thinking: bool = False, on_text: OnText = None
    ) -> Any:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self._llm is None:
            raise EngineError("the vLLM engine is closed")
        try:
            return await self._collect(prompt, params, thinking=thinking, on_text=on_text)
        except EngineDeadError as error:
            raise EngineError(
                "vLLM stopped; its own message is above (LOGLEVEL and VLLM_LOGGING_LEVEL=INFO "
                "show more). Out of memory: lower --gpu_memory_utilization or --max_model_len"
            ) from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            raise RequestFailedError(
                f"vLLM refused the request: {error.__cause__ or error}"
            ) from error

    async def _collect(
        self, prompt: list[int], params: Any, *, thinking: bool, on_text: OnText
    ) -> Any:
        async def collect() -> Any:
            output = None
            outputs = self._llm.generate(
                {"prompt_token_ids": prompt},
                params,
                request_id=str(next(self._request_ids)),
                lora_request=self._lora,
                # Where a grammar begins: at once, or after `</think>`. vLLM 0.32 cannot tell by
                # itself that a model without reasoning has none (vllm#47027).
                reasoning_ended=not thinking,
            )
            async for output in outputs:
                if on_text is not None and not output.finished:
                    on_text(self._encoder.decode(output.outputs[0].token_ids))
            return output

        task = asyncio.create_task(collect())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # vLLM then tells its processes and waits until they have heard: for ever after a
            # Ctrl-C, which has ended them, so this is not waited for.
            task.cancel()
            raise

    async def next_token_logprobs(self, prompt: list[int], token_ids: Sequence[int]) -> list[float]:
        """See `engines.scoring.TokenScorer`."""
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

        found: list[float] = []
        for start in range(0, len(token_ids), MAX_LOGPROB_TOKEN_IDS):
            asked = token_ids[start : start + MAX_LOGPROB_TOKEN_IDS]
            output = await self._generate(prompt, _scoring_params(asked))
            scores = output.outputs[0].logprobs[0]
            found += [scores[token].logprob for token in asked]
        return found

    async def aclose(self) -> None:
        """Stop vLLM's processes and wait for their end."""
        llm, self._llm = self._llm, None
        if llm is not None:
            # In this thread: vLLM's own task in this loop would take the end for a crash.
            llm.shutdown(timeout=self._shutdown_seconds)
            self._watchdog.release()
            gc.unfreeze()
        if self._merged is not None:
            self._merged.cleanup()
            self._merged = None


def _sampling_params(sampling: Sampling, *, streams: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    constraint = None
    if sampling.choices:
        constraint = StructuredOutputsParams(choice=list(sampling.choices))
    elif sampling.json_schema:
        constraint = StructuredOutputsParams(json=sampling.json_schema)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        thinking_token_budget=sampling.max_thinking_tokens,
        structured_outputs=constraint,
        # vLLM returns those of the reasoning too; they are cut off when the completion is here.
        logprobs=sampling.top_logprobs or None,
        flat_logprobs=sampling.top_logprobs > 0,
        # vLLM would decode token by token, for streaming; once, at the end, is cheaper.
        detokenize=False,
        # Every partial text would cross to this process and wake its task.
        output_kind=RequestOutputKind.CUMULATIVE if streams else RequestOutputKind.FINAL_ONLY,
        # Each request has its own parameters here: vLLM need not copy them.
        skip_clone=True,
    )


def _scoring_params(token_ids: Sequence[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,  # vLLM has no request that writes nothing; this token is ignored
        logprob_token_ids=list(token_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _completion(
    output: Any, encoder: PromptEncoder, *, prompt_tokens: int, started: float, top: int
) -> Completion:
    written = output.outputs[0]
    if written.finish_reason not in ("stop", "length"):
        raise RequestFailedError(f"vLLM ended the request with {written.finish_reason!r}")
    # Without stop texts, what stops a completion is its last token: the end of the turn.
    end = len(written.token_ids) - (written.finish_reason == "stop")
    return Completion(
        text=encoder.decode(written.token_ids[:end]),
        finish_reason=written.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(written.token_ids),
        cached_tokens=output.num_cached_tokens,
        seconds=time.perf_counter() - started,
        first_token_seconds=output.metrics.first_token_latency if output.metrics else None,
        logprobs=_answer_logprobs(written, encoder, top=top) if top else None,
    )


def _answer_logprobs(written: Any, encoder: PromptEncoder, *, top: int) -> AnswerLogprobs:
    """Those of what follows the reasoning, out of vLLM's `FlatLogprobs` of the whole completion."""
    flat = written.logprobs
    start = encoder.answer_start(written.token_ids)
    return AnswerLogprobs.of(
        [
            (token, list(zip(flat.token_ids[begin:end], flat.logprobs[begin:end], strict=True)))
            for token, begin, end in zip(
                written.token_ids[start:],
                flat.start_indices[start:],
                flat.end_indices[start:],
                strict=True,
            )
        ],
        top=top,
    )
