"""Engines that write text: vLLM, transformers or an OpenAI-compatible server, one Protocol."""

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import (
    Completion,
    Engine,
    EngineOptions,
    Request,
    RequestFailedError,
    Sampling,
)
from prompt_distillation.engines.concurrency import (
    alongside,
    gather_or_cancel,
    map_concurrently,
    stream,
)
from prompt_distillation.engines.opening import engine_options, open_engine, resolve_engine_kind

__all__ = [
    "Completion",
    "Engine",
    "EngineKind",
    "EngineOptions",
    "Request",
    "RequestFailedError",
    "Sampling",
    "alongside",
    "engine_options",
    "gather_or_cancel",
    "map_concurrently",
    "open_engine",
    "resolve_engine_kind",
    "stream",
]
