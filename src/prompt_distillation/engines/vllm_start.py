"""Starting vLLM: its settings for this machine, its processes, its environment."""

import asyncio
import json
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.checkpoints import ADAPTER_CONFIG, check_model, merge_adapter
from prompt_distillation.data.vllm_flags import AdapterShape, adapter_shape
from prompt_distillation.engines.base import EngineOptions
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.engines.vllm import VllmEngine, Watchdog
from prompt_distillation.errors import EngineError
from prompt_distillation.machine import choose_device, memory_bytes, share_cores
from prompt_distillation.tasks import END_OF_THINKING, START_OF_THINKING

logger = logging.getLogger(__name__)

# The scheduler's process takes some 3 s to end its children, which it would leave behind if it were
# killed sooner. Where the model computes in it, it has none, and nothing to put in order.
SHUTDOWN_SECONDS = 20.0
SHUTDOWN_SECONDS_ALONE = 0.1


@dataclass(frozen=True, kw_only=True)
class LiveAdapter:
    """An adapter that vLLM applies while it runs."""

    path: Path
    shape: AdapterShape


def live_adapter(adapter: Path, *, device: str) -> LiveAdapter | None:
    """Describe ``adapter`` if vLLM can apply it itself; None where it has to be merged.

    vLLM 0.32 reads ranks and alphas per module as PEFT writes them (``rank_pattern``,
    ``alpha_pattern``). It has no LoRA kernels for mixtures of experts without a GPU, takes fused
    experts only with both of their parts, and refuses some of PEFT's variants, such as DoRA.
    """
    if device == "cpu":
        return None
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    shape = adapter_shape(config)
    try:
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=shape.max_rank))
        if shape.experts and shape.experts != {"gate_up_proj", "down_proj"}:
            raise ValueError(f"it adapts only {', '.join(sorted(shape.experts))} of the experts")
    except ValueError as error:
        logger.info("vLLM cannot apply the adapter %s itself: %s", adapter, error)
        return None
    return LiveAdapter(path=adapter.resolve(), shape=shape)


def merge_into(folder: Path, options: EngineOptions) -> Path:
    """Write the model with its adapter merged into ``folder``; returns it."""
    assert options.adapter is not None
    logger.info("merging %s into %s for vLLM", options.adapter, options.model)
    return merge_adapter(
        options.model,
        options.adapter,
        folder,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )


def merge_to_temporary(options: EngineOptions) -> "tempfile.TemporaryDirectory[str]":
    """As `merge_into`, a folder which the caller cleans up."""
    folder = tempfile.TemporaryDirectory(prefix="prompt-distillation-merged-")
    try:
        merge_into(Path(folder.name), options)
    except BaseException:
        folder.cleanup()
        raise
    return folder


async def start_vllm(options: EngineOptions) -> VllmEngine:
    """Start vLLM's processes and load the model."""
    check_model(options.model)
    device = choose_device(options.device, options.tensor_parallel_size)
    live, merged = None, None
    # The adapter's own tokenizer counts, so it is loaded before the adapter may be merged away.
    encoder = PromptEncoder.of(options)
    before = _child_pids()
    try:
        with vllm_environment(options, device=device), warnings.catch_warnings():
            # vLLM's imports warn about the future of its own libraries, which no user can change.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            if options.adapter is not None:
                live = live_adapter(options.adapter, device=device)
                if live is None:
                    merged = await asyncio.to_thread(merge_to_temporary, options)
                    options = replace(options, model=merged.name, adapter=None, revision=None)
            llm = await _start_async_llm(_engine_arguments(options, live, device=device))
    except BaseException:
        if merged is not None:
            merged.cleanup()
        raise
    started = _child_pids() - before
    return VllmEngine(
        llm,
        encoder,
        # What vLLM runs at once, and as many again, so that its queue is never empty.
        concurrency=options.max_concurrency or 2 * llm.vllm_config.scheduler_config.max_num_seqs,
        watchdog=Watchdog(sorted(started)),
        shutdown_seconds=(
            SHUTDOWN_SECONDS_ALONE if _in_one_process(options, device) else SHUTDOWN_SECONDS
        ),
        lora=_lora_request(live),
        merged=merged,
    )


@contextmanager
def vllm_environment(options: EngineOptions, *, device: str) -> Iterator[None]:
    """Defaults that vLLM takes from the environment only; what the user set stays.

    They must stand before vLLM is imported, and its processes inherit them when they start.
    """
    defaults = {
        # Its start-up is some hundred lines, on stdout.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # For its processes only: its libraries warn of their futures, and that a CPU has no Triton.
    of_this_engine = {"PYTHONWARNINGS": "ignore", "TORCH_LOGS": "-all"}
    if device == "cpu":
        of_this_engine |= _cpu_environment(options)
    else:
        # Whoever has asked torch for its GPUs, as this package and its libraries do, can no longer
        # fork a process that computes on them; vLLM forks unless CUDA itself was in use by then.
        of_this_engine["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    missing = {name: value for name, value in of_this_engine.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        # The next engine of this process may be shared by another number.
        for name in missing:
            os.environ.pop(name, None)


def _cpu_environment(options: EngineOptions) -> dict[str, str]:
    """Room for keys and values (an eighth of the memory, 1 to 16 GiB), and processes and cores."""
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(16, memory_bytes() // (8 << 30)))),
        # Eager as the model is, vLLM would still compile a function or two: 10 s, and a compiler.
        "TORCH_COMPILE_DISABLE": "1",
    }
    if _in_one_process(options, "cpu"):
        # Otherwise vLLM starts a second process for the model, keeps a core from it, and fills that
        # core with waiting in a tight loop.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    else:
        # vLLM's own choice wants a NUMA node for each share.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = share_cores(options.tensor_parallel_size)
    return environment


def _in_one_process(options: EngineOptions, device: str) -> bool:
    """Whether the model computes in the process that schedules.

    Cores that are named in the environment are bound by vLLM's second process only.
    """
    bound = "VLLM_CPU_OMP_THREADS_BIND" in os.environ
    return device == "cpu" and options.tensor_parallel_size == 1 and not bound


def _engine_arguments(
    options: EngineOptions, live: LiveAdapter | None, *, device: str
) -> dict[str, Any]:
    from vllm.config import ReasoningConfig, StructuredOutputsConfig

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
        "enable_prefix_caching": options.prefix_caching,
        # On a CPU, compiling takes longer than most runs.
        "enforce_eager": device == "cpu",
        # A request that is prefilled in parts and has a seed ends the engine on a CPU: vLLM 0.32
        # winds its generator back, which only CUDA's can do (gpu_model_runner.py, `set_offset`).
        "enable_chunked_prefill": False if device == "cpu" else None,
        "reasoning_config": ReasoningConfig(
            reasoning_start_str=START_OF_THINKING, reasoning_end_str=END_OF_THINKING
        ),
        # JSON without spaces, as a student is trained to write it; free to put spaces anywhere, an
        # untrained model writes nothing but line feeds.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="xgrammar",
            disable_any_whitespace=True,
            # Finds `</think>`, from which on the answer of a thinking model is constrained.
            reasoning_parser="deepseek_r1",
        ),
        "use_tqdm_on_load": False,
    }
    if live is not None:
        arguments |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": live.shape.max_rank,
            "enable_mixed_moe_lora_format": bool(live.shape.experts),
        }
    return arguments


def _lora_request(live: LiveAdapter | None) -> Any:
    if live is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(live.path), is_3d_lora_weight=bool(live.shape.experts))


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


def _child_pids() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) if lines else type(error).__name__
