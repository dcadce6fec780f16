"""A constraint on the answer of a thinking model leaves its reasoning free."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from engines.asking import tiny_engine

from prompt_distillation.engines import Request, Sampling
from prompt_distillation.tasks import load_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASK = load_task(ROOT / "tasks" / "language")
SCHEMA = {
    "type": "object",
    "required": ["code"],
    "additionalProperties": False,
    "properties": {"code": {"enum": list(TASK.labels)}},
}
TEXTS = ("Where is the station?", "Wo ist der Bahnhof?", "¿Dónde está la estación?")
SAMPLING = Sampling(max_tokens=256, thinking=True)


def request(text: str, sampling: Sampling) -> Request:
    return Request(messages=TASK.conversation(text, with_prompt=True), sampling=sampling)


@pytest.mark.parametrize("kind", [pytest.param("vllm", marks=pytest.mark.vllm), "transformers"])
async def test_labels_are_chosen_after_the_reasoning(kind: str) -> None:
    constrained = SAMPLING.constrained_to(TASK.answers)
    async with tiny_engine(ROOT / "example-models" / "teacher", kind) as engine:
        for text in TEXTS:
            free = await engine.complete(request(text, SAMPLING))
            bound = await engine.complete(request(text, constrained))
            reasoning, _, label = bound.text.partition("</think>")
            assert reasoning == free.text.partition("</think>")[0]
            assert reasoning.strip()
            assert label in TASK.labels
        # Told that it does not reason, the model is bound from its first token on.
        at_once = await engine.complete(request(TEXTS[0], replace(constrained, thinking=False)))
        assert at_once.text in TASK.labels


@pytest.mark.vllm
async def test_json_is_written_after_the_reasoning() -> None:
    constrained = replace(SAMPLING, json_schema=json.dumps(SCHEMA))
    async with tiny_engine(ROOT / "example-models" / "teacher", "vllm") as engine:
        for text in TEXTS:
            bound = await engine.complete(request(text, constrained))
            reasoning, _, answer = bound.text.partition("</think>")
            assert reasoning.strip()
            assert json.loads(answer)["code"] in TASK.labels
