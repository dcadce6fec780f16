from typing import Any

import pytest
import torch

from prompt_distillation.engines import Sampling
from prompt_distillation.engines.transformers_generation import BatchGenerator, Marks, Row

MARKS = Marks(end_of_turn=frozenset({7}), start_of_thinking=(258,), end_of_thinking=(259,))
PREFIX = [(11 * number) % 250 for number in range(70)]
PROMPTS = [PREFIX + [40 + number] * (1 + 3 * number) for number in range(6)]


@pytest.fixture(scope="module")
def model(tiny_models) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_models.student).eval()


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What transformers itself writes, one prompt at a time."""
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=7
    )
    written = output[0, len(prompt) :].tolist()
    return written[: written.index(7)] if 7 in written else written


def run(generator: BatchGenerator, prompts: list[list[int]], budgets: list[int]) -> list[Row]:
    rows = [Row(sampling=Sampling(), marks=MARKS, max_new_tokens=budget) for budget in budgets]
    generator.run(prompts, rows, on_token=lambda _: None, is_dropped=lambda _: False)
    return rows


def test_a_batch_writes_what_each_prompt_gets_alone(model: Any) -> None:
    generator = BatchGenerator(model, pad_token_id=0)
    budgets = [3, 25, 9, 1, 14, 25]
    expected = [greedy(model, *pair) for pair in zip(PROMPTS, budgets, strict=True)]
    first = run(generator, PROMPTS, budgets)
    assert [row.token_ids for row in first] == expected
    assert [row.cached_tokens for row in first] == [0] + [len(PREFIX)] * 5
    again = run(generator, PROMPTS[::-1], budgets[::-1])
    assert [row.token_ids for row in again] == expected[::-1]
    assert {row.cached_tokens for row in again} == {len(PREFIX)}


def test_another_prefix_takes_the_place_of_the_first(model: Any) -> None:
    generator = BatchGenerator(model, pad_token_id=0)
    run(generator, PROMPTS, [2] * 6)
    others = [[*reversed(PREFIX), 5, 6], [*reversed(PREFIX), 8]]
    (row, _) = run(generator, others, [12, 12])
    assert row.token_ids == greedy(model, others[0], 12)
    (row, _) = run(generator, PROMPTS[:2], [12, 12])
    assert row.token_ids == greedy(model, PROMPTS[0], 12)


def test_prompts_with_nothing_in_common_are_only_padded(model: Any) -> None:
    prompts = [[1, 2, 3], [9] * 40, [30, 31]]
    rows = run(BatchGenerator(model, pad_token_id=0), prompts, [10] * 3)
    assert [row.token_ids for row in rows] == [greedy(model, prompt, 10) for prompt in prompts]
    assert {row.cached_tokens for row in rows} == {0}


def test_equal_prompts_keep_a_token_to_compute(model: Any) -> None:
    rows = run(BatchGenerator(model, pad_token_id=0), [PREFIX, PREFIX], [8, 8])
    assert rows[0].token_ids == rows[1].token_ids == greedy(model, PREFIX, 8)


def test_a_dropped_row_stops_and_leaves_the_others(model: Any) -> None:
    rows = [Row(sampling=Sampling(), marks=MARKS, max_new_tokens=20) for _ in range(3)]
    BatchGenerator(model, pad_token_id=0).run(
        PROMPTS[:3], rows, on_token=lambda _: None, is_dropped=lambda index: index == 1
    )
    assert rows[1].finish_reason is None
    assert len(rows[1].token_ids) <= 1
    assert rows[2].token_ids == greedy(model, PROMPTS[2], 20)


@pytest.mark.parametrize("shared", [True, False])
def test_a_prefix_is_shared_or_copied_with_one_result(
    tiny_models, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    from transformers import AutoModelForCausalLM

    from prompt_distillation.engines import transformers_generation as generation

    model = AutoModelForCausalLM.from_pretrained(
        tiny_models.student, attn_implementation="sdpa" if shared else "eager"
    ).eval()
    spread: list[Any] = []
    original = generation.BatchGenerator._spread_prefix

    def watched(self: BatchGenerator, rows: int) -> Any:
        spread.append(original(self, rows))
        return spread[-1]

    monkeypatch.setattr(generation.BatchGenerator, "_spread_prefix", watched)
    monkeypatch.setattr("prompt_distillation.engines.prefix_attention.MOST_SCORES", 1000)

    rows = run(BatchGenerator(model, pad_token_id=0), PROMPTS, [12] * 6)

    plain = AutoModelForCausalLM.from_pretrained(tiny_models.student).eval()
    assert [row.token_ids for row in rows] == [greedy(plain, prompt, 12) for prompt in PROMPTS]
    layers = {type(layer).__name__ for layer in spread[0].layers}
    assert layers == {"OwnTokensLayer" if shared else "DynamicLayer"}


def test_a_model_that_swallows_the_prefix_gets_copies(
    tiny_models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_models.student).eval()
    whole = model.forward

    def without_keywords(*, shared_prefix: Any = None, **keywords: Any) -> Any:
        return whole(**keywords)

    monkeypatch.setattr(model, "forward", without_keywords)

    rows = run(BatchGenerator(model, pad_token_id=0), PROMPTS, [12] * 6)

    assert [row.token_ids for row in rows] == [greedy(model, prompt, 12) for prompt in PROMPTS]


def test_the_scores_of_an_answer_are_the_models_own(model: Any) -> None:
    sampling = Sampling(temperature=0.7, seed=3, top_logprobs=4)
    rows = [
        Row(sampling=sampling, marks=MARKS, max_new_tokens=6),
        Row(sampling=sampling, marks=MARKS, max_new_tokens=6, thinking=True),
        Row(sampling=Sampling(), marks=MARKS, max_new_tokens=6),
    ]
    BatchGenerator(model, pad_token_id=0).run(
        PROMPTS[:3], rows, on_token=lambda _: None, is_dropped=lambda _: False
    )
    assert not rows[1].scores  # its reasoning was never closed
    assert not rows[2].scores  # it asked for none
    written = [token for token, _ in rows[0].scores]
    assert written[: len(rows[0].token_ids)] == rows[0].token_ids
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPTS[0] + rows[0].token_ids])).logits[0]
    # Of the model, not of the temperature.
    expected = logits[len(PROMPTS[0]) - 1 :].log_softmax(dim=-1)
    for place, (token, candidates) in enumerate(rows[0].scores):
        best = expected[place].topk(4)
        assert [candidate for candidate, _ in candidates[1:]] == best.indices.tolist()
        own, *scores = [score for _, score in candidates]
        assert scores == pytest.approx(best.values.tolist(), abs=1e-4)
        assert own == pytest.approx(float(expected[place, token]), abs=1e-4)


def test_the_scores_begin_behind_the_last_end_of_thinking() -> None:
    row = Row(sampling=Sampling(top_logprobs=1), marks=MARKS, max_new_tokens=9, thinking=True)
    kept = []
    for token in (5, 259, 6, 259, 8, 7):
        if row.wants_scores:
            row.scores.append((token, [(token, 0.0)]))
            kept.append(token)
        row.take(token)
    assert kept == [6, 259, 8, 7]
    assert [token for token, _ in row.scores] == [8, 7]
