import pytest
import torch

from prompt_distillation.engines import Sampling
from prompt_distillation.engines.transformers_generation import Marks, Row, draw

END, OPEN, CLOSE = 0, 8, 9
MARKS = Marks(end_of_turn=frozenset({END}), start_of_thinking=(OPEN,), end_of_thinking=(CLOSE,))
LOGITS = torch.tensor([-9.0, 2.0, 1.0, 0.5, 0.0, -1.0, -2.0, -3.0, -9.0, -9.0])


def row(*, max_new_tokens: int = 100, choices=None, thinking: bool = False, **sampling) -> Row:
    return Row(
        sampling=Sampling(thinking=thinking, **sampling),
        marks=MARKS,
        max_new_tokens=max_new_tokens,
        choices=choices,
        thinking=thinking,
    )


def write(one: Row, logits: torch.Tensor = LOGITS, *, tokens: int = 50) -> list[int]:
    for _ in range(tokens):
        if one.finish_reason is not None:
            break
        (token,) = draw(logits[None].clone(), [one])
        one.take(token)
    return one.token_ids


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_draws_follow_the_softmax_at_the_temperature(top_p: float) -> None:
    rows = [row(temperature=0.7, top_p=top_p, seed=seed) for seed in range(20_000)]
    drawn = torch.tensor(draw(LOGITS.repeat(len(rows), 1), rows))
    shares = torch.bincount(drawn, minlength=10) / len(rows)
    torch.testing.assert_close(shares, torch.softmax(LOGITS / 0.7, 0), atol=0.012, rtol=0)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for top_p, kept in [(0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1}), (0.81, {0, 1, 2}), (1e-6, {0})]:
        rows = [row(temperature=1.0, top_p=top_p, seed=seed) for seed in range(400)]
        assert set(draw(probabilities.log().repeat(400, 1), rows)) == kept


def test_a_row_draws_the_same_in_any_company() -> None:
    kinds = [
        {"temperature": 0.9, "seed": 1},
        {"temperature": 0.0},
        {"temperature": 1.5, "top_p": 0.9, "seed": 2},
        {"temperature": 0.9, "seed": 3},
    ]
    together = [row(**kind) for kind in kinds]
    for _ in range(30):
        for one, token in zip(together, draw(LOGITS.repeat(4, 1), together), strict=True):
            one.take(token)
    for kind, one in zip(kinds, together, strict=True):
        assert write(row(**kind), tokens=30) == one.token_ids
    assert together[0].token_ids != together[3].token_ids


def test_a_row_ends_with_its_turn_or_its_budget() -> None:
    ending = row()
    ending.take(3)
    ending.take(END)
    assert (ending.token_ids, ending.finish_reason) == ([3], "stop")
    assert ending.completion_tokens == 2
    cut = row(max_new_tokens=4)
    assert write(cut) == [1, 1, 1, 1]
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 4)


def test_choices_are_written_to_their_ends() -> None:
    one = row(choices=[[5, 6], [7]], temperature=1.0)
    assert write(one) in ([5, 6], [7])
    assert one.finish_reason == "stop"
    # Where one choice begins another, the model decides whether the turn ends there.
    assert write(row(choices=[[1], [1, 2]])) == [1, 2]
    eager = LOGITS.clone()
    eager[END] = 3.0
    assert write(row(choices=[[1], [1, 2]]), eager) == [1]


def test_thinking_is_closed_when_its_budget_is_spent() -> None:
    one = row(thinking=True, max_thinking_tokens=3, max_new_tokens=6)
    assert write(one) == [1, 1, 1, CLOSE, 1, 1]
    unopened = row(max_thinking_tokens=3, max_new_tokens=6)
    assert write(unopened) == [1] * 6
    opens = row(max_thinking_tokens=2, max_new_tokens=6)
    opens.take(OPEN)
    assert write(opens) == [OPEN, 1, 1, CLOSE, 1, 1]
    closes = row(thinking=True, max_thinking_tokens=3, max_new_tokens=8)
    closes.take(CLOSE)
    assert write(closes) == [CLOSE] + [1] * 7


def test_only_a_generation_prompt_opens_the_thinking() -> None:
    assert MARKS.opens_thinking([1, 2, OPEN, 3])
    assert MARKS.opens_thinking([1, 2, OPEN])
    assert not MARKS.opens_thinking([OPEN, 1, 2, 3])
    assert not MARKS.opens_thinking([1, OPEN, CLOSE])


def test_choices_bind_what_follows_the_reasoning() -> None:
    one = row(choices=[[5, 6], [7]], thinking=True, max_new_tokens=20)
    for token in (1, 2, CLOSE):
        assert one.allowed_ids() is None
        one.take(token)
    assert write(one) == [1, 2, CLOSE, 5, 6]
    assert one.finish_reason == "stop"
