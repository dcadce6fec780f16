"""Short forms of requests and engines, for the tests of this folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prompt_distillation.engines import Engine, EngineOptions, Request, Sampling, open_engine

LONG_PROMPT = "Name the language of the text. " * 20


def ask(text: str, *, system: str | None = None, prefill: str = "", **sampling: Any) -> Request:
    turns: list[Any] = [{"role": "user", "content": text}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return Request(
        messages=tuple(turns), sampling=Sampling(**{"max_tokens": 12, **sampling}), prefill=prefill
    )


@asynccontextmanager
async def tiny_engine(
    model: Path, kind: Any = "transformers", **options: Any
) -> AsyncIterator[Engine]:
    async with open_engine(kind, EngineOptions(model=str(model), **options)) as engine:
        yield engine
