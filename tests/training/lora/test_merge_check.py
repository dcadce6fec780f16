import pytest
import torch
from training.tiny_student import build_student

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training.held_out_answers import Question
from prompt_distillation.training.lora.adapter import adapt
from prompt_distillation.training.lora.merge_check import (
    ADAPTER,
    BASE,
    MERGED,
    WITHOUT_EXPERTS,
    check_merge,
    score,
    score_adapter,
)

ASKED = [Question(list(range(10, 10 + n)), []) for n in (4, 9, 6)]
ANSWERS = [[7, 2], [8, 9, 2], [11, 2]]


def adapted(seed=0):
    model = build_student("qwen3_moe", 400)
    settings = LoraSettings(lora_rank=4, lora_expert_rank=2, lora_targets="all-linear")
    model = adapt(model, settings).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    return model


def test_a_score_is_the_sum_of_an_answers_log_probabilities():
    model = build_student("qwen3_moe", 400).eval()
    scores = score(model, ASKED, ANSWERS)
    assert scores.shape == (3, 3)
    for i, question in enumerate(ASKED):
        for j, answer in enumerate(ANSWERS):
            ids = torch.tensor([[*question.context, *answer]])
            logprobs = model(input_ids=ids).logits[0].detach().log_softmax(-1)
            alone = sum(
                float(logprobs[len(question.context) + k - 1, token])
                for k, token in enumerate(answer)
            )
            assert float(scores[i, j]) == pytest.approx(alone, abs=1e-4)


def test_a_whole_merge_passes_and_one_without_experts_fails():
    model = adapted()
    scores = score_adapter(model, ASKED, ANSWERS)
    again = score_adapter(model, ASKED, ANSWERS)
    assert torch.equal(scores[ADAPTER], again[ADAPTER])  # the model is as it was
    merged = model.merge_and_unload()
    whole = check_merge(scores | {MERGED: score(merged, ASKED, ANSWERS)})
    assert [pair.passes for pair in whole] == [True] * 4
    half = check_merge(scores | {MERGED: scores[WITHOUT_EXPERTS]})
    assert [(pair.first, pair.second) for pair in half if not pair.passes] == [(ADAPTER, MERGED)]
    none = check_merge(scores | {MERGED: scores[BASE]})
    assert (BASE, MERGED) in [(pair.first, pair.second) for pair in none if not pair.passes]


def test_an_adapter_that_was_never_trained_is_not_alive():
    model = build_student("qwen3_moe", 400)
    settings = LoraSettings(lora_rank=4, lora_expert_rank=2, lora_targets="all-linear")
    model = adapt(model, settings).eval()
    pairs = check_merge(score_adapter(model, ASKED, ANSWERS))
    assert not any(pair.passes for pair in pairs)
