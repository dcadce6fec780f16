"""The vLLM engine: thousands of requests in flight, the shared prompt computed once."""

import asyncio
import itertools
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

from prompt_distillation.checkpoints import check_model
from prompt_distillation.engines.adapters import LiveAdapter, live_adapter, merge_to_temporary
from prompt_distillation.engines.base import (
    Completion,
    EngineOptions,
    Request,
    RequestFailedError,
    Sampling,
)
from prompt_distillation.engines.devices import choose_device, share_cores
from prompt_distillation.engines.prompts import PromptEncoder, load_tokenizer
from prompt_distillation.errors import EngineError
from prompt_distillation.task import END_OF_THINKING

logger = logging.getLogger(__name__)

# Its processes take some 3 s; killed earlier than that, they may leave others behind.
SHUTDOWN_SECONDS = 20.0


def _set_environment_defaults(options: EngineOptions, *, device: str) -> None:
    """Defaults that vLLM takes from the environment only; what the user set stays.

    They must stand before vLLM is imported, and its processes inherit them.
    """
    defaults = {
        # Its start-up is some hundred lines, on stdout.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if device == "cpu":
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(_cpu_cache_gib())
        if options.tensor_parallel_size > 1:
            # vLLM's own choice wants a NUMA node for each share of the model.
            defaults["VLLM_CPU_OMP_THREADS_BIND"] = share_cores(options.tensor_parallel_size)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _cpu_cache_gib() -> int:
    """Room for keys and values on a CPU: an eighth of the memory, between 1 and 16 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(16, total // (8 << 30)))


class VllmEngine:
    """vLLM's asynchronous engine, in processes of its own.

    Args:
        llm: a started `vllm.v1.engine.async_llm.AsyncLLM`.
        encoder: renders and encodes conversations.
        concurrency: how many requests to keep in flight.
        lora: the `LoRARequest` to send with every request, if any.
        merged: folder of a merged model, removed on closing.
    """

    name = "vllm"

    def __init__(
        self,
        llm: Any,
        encoder: PromptEncoder,
        *,
        concurrency: int,
        lora: Any = None,
        merged: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self.concurrency = concurrency
        self._llm = llm
        self._encoder = encoder
        self._lora = lora
        self._merged = merged
        self._request_ids = itertools.count()

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation, batched by vLLM with whatever else is in flight."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self._llm is None:
            raise EngineError("the vLLM engine is closed")
        started = time.perf_counter()
        prompt = self._encoder.encode(request)
        try:
            outputs = [
                output
                async for output in self._llm.generate(
                    {"prompt_token_ids": prompt},
                    _sampling_params(request.sampling),
                    request_id=str(next(self._request_ids)),
                    lora_request=self._lora,
                )
            ]
        except EngineDeadError as error:
            raise EngineError(
                "vLLM stopped; its own message stands above (LOGLEVEL and VLLM_LOGGING_LEVEL=INFO "
                "show more). Out of memory: lower --gpu_memory_utilization or --max_model_len"
            ) from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            raise RequestFailedError(
                f"vLLM refused the request: {error.__cause__ or error}"
            ) from error
        return _completion(outputs[-1], self._encoder, prompt_tokens=len(prompt), started=started)

    async def next_token_logprobs(
        self, prompts: Sequence[list[int]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """See `engines.scoring.TokenScorer`."""
        return await asyncio.gather(
            *(self._next_token_logprobs(prompt, token_ids) for prompt in prompts)
        )

    async def _next_token_logprobs(
        self, prompt: list[int], token_ids: Sequence[int]
    ) -> list[float]:
        from vllm import SamplingParams
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

        found: dict[int, float] = {}
        for start in range(0, len(token_ids), MAX_LOGPROB_TOKEN_IDS):
            asked = list(token_ids[start : start + MAX_LOGPROB_TOKEN_IDS])
            # vLLM has no request that writes nothing: one token, which nobody looks at.
            sampling = SamplingParams(
                temperature=0.0, max_tokens=1, logprob_token_ids=asked, detokenize=False
            )
            async for output in self._llm.generate(
                {"prompt_token_ids": prompt},
                sampling,
                request_id=str(next(self._request_ids)),
                lora_request=self._lora,
            ):
                scores = output.outputs[0].logprobs[0]
                found |= {token: scores[token].logprob for token in asked}
        return [found[token] for token in token_ids]

    async def aclose(self) -> None:
        """Stop vLLM's processes and wait for their end."""
        llm, self._llm = self._llm, None
        if llm is not None:
            # In this thread: vLLM's own task in this loop would take the end for a crash.
            llm.shutdown(timeout=SHUTDOWN_SECONDS)
        if self._merged is not None:
            self._merged.cleanup()
            self._merged = None


def _sampling_params(sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    choices = sampling.choices
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        thinking_token_budget=sampling.max_thinking_tokens,
        structured_outputs=StructuredOutputsParams(choice=list(choices)) if choices else None,
        # vLLM would decode token by token, for streaming; once, at the end, is cheaper.
        detokenize=False,
        # Every partial text would cross to this process and wake its task.
        output_kind=RequestOutputKind.FINAL_ONLY,
        # Each request has its own parameters here: vLLM need not copy them.
        skip_clone=True,
    )


def _completion(
    output: Any, encoder: PromptEncoder, *, prompt_tokens: int, started: float
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
    )


async def start_vllm(options: EngineOptions) -> VllmEngine:
    """Start vLLM's processes and load the model.

    Raises:
        EngineError: not enough GPUs, or vLLM does not start.
        ModelError: there is no such model, or the adapter does not fit it.
    """
    check_model(options.model)
    device = choose_device(options)
    _set_environment_defaults(options, device=device)
    live, merged = None, None
    # The adapter's own tokenizer counts, so it is loaded before the adapter may be merged away.
    encoder = PromptEncoder(load_tokenizer(options), model=options.model)
    if options.adapter is not None:
        live = live_adapter(options.adapter, device=device)
        if live is None:
            logger.info("merging %s into %s for vLLM", options.adapter, options.model)
            merged = await asyncio.to_thread(merge_to_temporary, options)
            options = merged.options
    try:
        with warnings.catch_warnings():
            # vLLM's imports warn of the futures of its own libraries: nothing a user can mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            llm = await _start_async_llm(_engine_arguments(options, live, device=device))
    except BaseException:
        if merged is not None:
            merged.folder.cleanup()
        raise
    return VllmEngine(
        llm,
        encoder,
        concurrency=options.max_concurrency or _default_concurrency(llm),
        lora=_lora_request(live),
        merged=merged.folder if merged else None,
    )


def _engine_arguments(
    options: EngineOptions, live: LiveAdapter | None, *, device: str
) -> dict[str, Any]:
    """Keyword arguments of `vllm.AsyncEngineArgs`."""
    from vllm.config import ReasoningConfig

    arguments: dict[str, Any] = {
        "model": options.model,
        "revision": options.revision,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        # -1: the longest, up to the model's own, for which the memory suffices.
        "max_model_len": options.max_model_len or -1,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
        "enable_prefix_caching": True,
        # On a CPU, compiling takes longer than most runs.
        "enforce_eager": device == "cpu",
        # A request that is prefilled in parts and has a seed ends the engine on a CPU: vLLM 0.32
        # winds its generator back, which only CUDA's can do (gpu_model_runner.py, `set_offset`).
        "enable_chunked_prefill": False if device == "cpu" else None,
        "reasoning_config": ReasoningConfig(
            reasoning_start_str="<think>", reasoning_end_str=END_OF_THINKING
        ),
        "use_tqdm_on_load": False,
    }
    if live is not None:
        arguments |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": live.max_rank,
            "enable_mixed_moe_lora_format": live.on_experts,
        }
    return arguments


def _lora_request(live: LiveAdapter | None) -> Any:
    if live is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(live.path), is_3d_lora_weight=live.on_experts)


async def _start_async_llm(arguments: dict[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        # Blocks this thread, which AsyncLLM needs to be the event loop's; nothing else runs yet.
        # LLM_CLASS: batches as large as for offline work, not for a server's short waits.
        return AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS
        )
    except (RuntimeError, ValueError, OSError) as error:
        # Ctrl-C reaches vLLM's processes first, and then us as a cancellation: the true reason.
        await asyncio.sleep(0)
        raise EngineError(
            f"vLLM does not start with {arguments['model']}: {_first_line(error)} (its own message "
            "may stand above; VLLM_LOGGING_LEVEL=INFO shows more)"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) if lines else type(error).__name__


def _default_concurrency(llm: Any) -> int:
    """What vLLM runs at once, and a quarter more, so that its queue is never empty."""
    at_once: int = llm.vllm_config.scheduler_config.max_num_seqs
    return at_once + at_once // 4
