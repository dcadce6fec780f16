import asyncio
from dataclasses import dataclass, field

import pytest

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.engines import Completion, Request, RequestFailedError, Sampling
from prompt_distillation.engines.scoring import LabelScores
from prompt_distillation.evaluation.predictions import (
    Asking,
    asking_of,
    predict,
    predict_by_score,
)


@dataclass
class SlowFirstEngine:
    """Answers later requests sooner, and writes down what it was asked."""

    answers: list[str]
    name: str = "slow-first"
    concurrency: int = 8
    requests: list[Request] = field(default_factory=list)

    async def complete(self, request: Request) -> Completion:
        position = len(self.requests)
        self.requests.append(request)
        for _ in range(20 - position):
            await asyncio.sleep(0)
        if self.answers[position] == "FAIL":
            raise RequestFailedError("too long")
        return Completion(
            text=self.answers[position],
            finish_reason="stop",
            prompt_tokens=9,
            completion_tokens=1,
            seconds=0.1,
        )

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("with_prompt", [False, True])
async def test_predictions_come_in_input_order(language_task, make_item, with_prompt) -> None:
    answers = ["fr", "Final Answer: de", "I cannot say", "FAIL", "klingon", "fr"]
    engine = SlowFirstEngine(answers)
    items = [make_item(index, text=f"text {index}") for index in range(len(answers))]
    asking = Asking(with_prompt=with_prompt, thinking=False, sampling=Sampling(max_tokens=16))

    got = [p async for p in predict(engine, items, task=language_task, asking=asking)]

    assert [p.index for p in got] == list(range(6))
    assert [p.predicted for p in got] == ["fr", "de", None, None, None, "fr"]
    assert [p.correct for p in got] == [True, False, False, False, False, True]
    assert got[2].reject_reason == "no_label"
    assert got[3].reject_reason == "engine_error"
    assert got[3].raw_output == "too long"
    first_role = engine.requests[0].messages[0]["role"]
    assert first_role == ("system" if with_prompt else "user")


async def test_reasoning_is_not_searched_for_a_label(language_task, make_item) -> None:
    engine = SlowFirstEngine(["It may be hi or el, so hi", "It is hi</think>\n\nFinal Answer: fr"])
    asking = Asking(with_prompt=True, thinking=True, sampling=Sampling())

    got = [
        p
        async for p in predict(
            engine, [make_item(0), make_item(1)], task=language_task, asking=asking
        )
    ]

    assert [p.predicted for p in got] == [None, "fr"]


def test_room_for_an_answer_fits_how_the_model_is_asked(language_task) -> None:
    def room(*, with_prompt: bool, thinking: bool) -> int:
        config = EvaluateConfig.of(with_prompt=with_prompt, thinking=thinking)
        return asking_of(config, language_task).sampling.max_tokens

    assert room(with_prompt=True, thinking=True) == 4096
    assert room(with_prompt=False, thinking=False) == 16
    assert 16 < room(with_prompt=True, thinking=False) < 4096


class Scorer:
    """Says "fr", and cannot score a text of more than ten characters."""

    name, concurrency = "scorer", 2

    async def complete(self, request: Request) -> LabelScores:
        if len(request.messages[-1]["content"]) > 10:
            raise RequestFailedError("too long")
        return LabelScores(
            probabilities={"fr": 0.7, "de": 0.3}, prompt_tokens=9, questions=1, seconds=0.1
        )


async def test_the_likeliest_label_is_the_prediction(language_task, make_item) -> None:
    texts = ["one", "a text that is too long", "three"]
    items = [make_item(index, text=text) for index, text in enumerate(texts)]

    asking = Asking(with_prompt=False, thinking=False, sampling=Sampling())
    got = [p async for p in predict_by_score(Scorer(), items, task=language_task, asking=asking)]

    assert [p.predicted for p in got] == ["fr", None, "fr"]
    assert got[0].label_probabilities == {"fr": 0.7, "de": 0.3}
    assert got[1].reject_reason == "engine_error"
