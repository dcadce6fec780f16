"""A teacher whose answers follow from the request alone, so that runs can be compared."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.engines.base import Completion, Engine, Request
from prompt_distillation.labelling.pipeline import LabelResult, label

LANGUAGE_TASK = Path(__file__).parents[2] / "tasks" / "language"
LABELS = ("ar", "de", "el", "en", "es", "fr")

Reply = Callable[[Request], Completion]


def completion(text: str, *, finish_reason: str = "stop") -> Completion:
    return Completion(
        text=text,
        finish_reason="length" if finish_reason == "length" else "stop",
        prompt_tokens=1500,
        completion_tokens=len(text.split()),
        seconds=0.5,
    )


def answer(label: str) -> Completion:
    return completion(f"It looks like it.\n</think>\n\nFinal Answer: {label}")


def dice(request: Request) -> int:
    """A number that depends on the conversation's last turn and on the request's seed."""
    key = f"{request.messages[-1]['content']}|{request.sampling.seed}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def moody(request: Request) -> Completion:
    """Labels at random; one completion in five holds no answer."""
    number = dice(request)
    if number % 5 == 0:
        return completion("I go on and on", finish_reason="length" if number % 2 else "stop")
    return answer(LABELS[number // 5 % len(LABELS)])


class ScriptedEngine:
    """Answers by ``reply``; remembers what it was asked."""

    name = "scripted"

    def __init__(
        self, reply: Reply = moody, *, concurrency: int = 16, delay_seconds: float = 0.0
    ) -> None:
        self.concurrency = concurrency
        self.requests: list[Request] = []
        self.opened = 0
        self._reply = reply
        self._delay_seconds = delay_seconds

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        # Later requests often finish first, as with a real engine.
        await asyncio.sleep(self._delay_seconds * (dice(request) % 7))
        return self._reply(request)

    async def aclose(self) -> None:
        pass

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        self.opened += 1
        yield self


def settings(folder: Path, **values: Any) -> LabelConfig:
    """Settings of a run in ``folder``: its inputs.txt, to out.jsonl, a fifth held out."""
    defaults = {
        "task": LANGUAGE_TASK,
        "input_file": folder / "inputs.txt",
        "output_file": folder / "out.jsonl",
        "model_name": "scripted",
        "held_out": 0.2,
        "progress_seconds": 60.0,
    }
    return LabelConfig.of(**defaults | values)


def run_label(
    folder: Path, engine: ScriptedEngine | None = None, **values: Any
) -> tuple[LabelResult, ScriptedEngine]:
    """Label what is in ``folder``, see `settings`; returns the result, and who was asked."""
    engine = engine or ScriptedEngine()
    return label(settings(folder, **values), open_teacher=engine.open), engine


def write_inputs(folder: Path, count: int = 60, *, name: str = "inputs.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lines = [f"sentence number {number}" for number in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """The dataset's files, byte for byte, but for the manifest, which tells the time."""
    return {
        name: (folder / f"out{name}.jsonl").read_bytes()
        for name in ("", ".heldout", ".records", ".rejects")
    }
