"""Label scores against a brute-force walk through the model."""

import math
from contextlib import asynccontextmanager

import pytest
from engines.asking import ask

from prompt_distillation.engines import EngineOptions, RequestFailedError, open_engine, stream
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.engines.scoring import LabelScorer, LabelScores, make_label_scorer
from prompt_distillation.errors import TaskError

LABELS = ["fr", "fra", "de", "du", "zh"]  # one token a byte: they divide after "", "f..r", "d"


@asynccontextmanager
async def label_scorer(kind, options):
    async with open_engine(kind, options) as engine:
        yield await make_label_scorer(engine, options, LABELS)


def brute_force(folder, text: str) -> dict[str, float]:
    """Each label's probability under decoding that may write nothing but a label."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    ways = {
        label: [*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id]
        for label in LABELS
    }
    found = {}
    for label, way in ways.items():
        logarithm = 0.0
        for depth, token in enumerate(way):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *way[:depth]]])).logits[0, -1].float()
            allowed = sorted({o[depth] for o in ways.values() if o[:depth] == way[:depth]})
            shares = logits[allowed].log_softmax(dim=-1)
            logarithm += float(shares[allowed.index(token)])
        found[label] = math.exp(logarithm)
    return found


async def test_scores_are_those_of_constrained_decoding(tiny_models) -> None:
    options = EngineOptions(model=str(tiny_models.student))
    texts = ["Bonjour", "Guten Tag, wie geht es dir heute?", "你好"]

    async with label_scorer("transformers", options) as scorer:
        found = {key: score async for key, score in stream(scorer, enumerate(map(ask, texts)))}
    scores = [found[key] for key in range(len(texts))]

    for text, score in zip(texts, scores, strict=True):
        assert score.probabilities == pytest.approx(
            brute_force(tiny_models.student, text), abs=1e-4
        )
        assert sum(score.probabilities.values()) == pytest.approx(1)
        assert score.questions == 3
    assert scores[0].probabilities != pytest.approx(scores[1].probabilities, abs=1e-3)


@pytest.mark.vllm
@pytest.mark.slow
async def test_vllm_gives_the_same_scores(tiny_models) -> None:
    # By itself vLLM takes a float32 checkpoint in half precision.
    options = EngineOptions(model=str(tiny_models.student), max_model_len=512, dtype="float32")
    texts = ["Bonjour", "Guten Tag, wie geht es dir heute?", "你好"]

    async with label_scorer("vllm", options) as scorer:
        found = {key: score async for key, score in stream(scorer, enumerate(map(ask, texts)))}

    for key, text in enumerate(texts):
        score = found[key]
        assert isinstance(score, LabelScores)
        assert score.probabilities == pytest.approx(
            brute_force(tiny_models.student, text), abs=1e-4
        )


async def test_a_prompt_that_is_too_long_is_one_failed_request(tiny_models) -> None:
    options = EngineOptions(model=str(tiny_models.student), max_model_len=64)

    requests = enumerate([ask("short"), ask("long " * 50), ask("short too")])

    async with label_scorer("transformers", options) as scorer:
        found = {key: outcome async for key, outcome in stream(scorer, requests)}

    assert isinstance(found[1], RequestFailedError)
    assert "of both together is 64" in str(found[1])
    assert isinstance(found[0], LabelScores)
    assert isinstance(found[2], LabelScores)


def test_labels_of_the_same_tokens_are_refused() -> None:
    class Engine:
        name, concurrency = "none", 1

    class Tokenizer:
        chat_template, eos_token_id, added_tokens_decoder = "x", 0, {}

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [len(text)]

    with pytest.raises(TaskError, match="same tokens"):
        LabelScorer(Engine(), PromptEncoder(Tokenizer(), model="m"), ["fr", "de", "one"])
