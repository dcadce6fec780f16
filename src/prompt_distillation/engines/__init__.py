"""Who writes text: vLLM, transformers, or any OpenAI-compatible server, behind one Protocol."""

from prompt_distillation.config import EngineKind
from prompt_distillation.engines.base import (
    Completion,
    Engine,
    EngineOptions,
    Request,
    RequestFailedError,
    Sampling,
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
    "engine_options",
    "open_engine",
    "resolve_engine_kind",
    "stream",
]
