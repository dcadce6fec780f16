import pytest
import torch

from prompt_distillation.engines.prefix_attention import (
    LayerPrefix,
    PrefixNotSharedError,
    prefix_attention,
)


class Layer:
    layer_idx, num_key_value_groups, is_causal = 0, 3, True


@pytest.mark.parametrize("most_scores", [2**26, 1])
def test_it_is_ordinary_attention_over_both_parts(
    monkeypatch: pytest.MonkeyPatch, most_scores: int
) -> None:
    monkeypatch.setattr("prompt_distillation.engines.prefix_attention.MOST_SCORES", most_scores)
    torch.manual_seed(0)
    rows, kv_heads, groups, prefix_length, own, new, width = 4, 2, 3, 20, 7, 5, 8
    query = torch.randn(rows, kv_heads * groups, new, width)
    prefix_keys, prefix_values = torch.randn(2, kv_heads, prefix_length, width)
    key, value = torch.randn(2, rows, kv_heads, own, width)
    seen = torch.ones(own, own, dtype=torch.bool).tril()[-new:].repeat(rows, 1, 1, 1)
    seen[1, :, :, :2] = False  # padding between the prefix and the row's own tokens
    mask = torch.cat([torch.ones(rows, 1, new, prefix_length, dtype=torch.bool), seen], dim=-1)

    shared, _ = prefix_attention(
        Layer(), query, key, value, mask, scaling=0.3,
        shared_prefix=[LayerPrefix(prefix_keys, prefix_values)],
    )  # fmt: skip

    whole = [
        torch.cat([part.expand(rows, -1, -1, -1), rest], dim=2)
        for part, rest in ((prefix_keys, key), (prefix_values, value))
    ]
    plain, _ = prefix_attention(Layer(), query, *whole, mask, scaling=0.3)
    assert shared.shape == (rows, new, kv_heads * groups, width)
    torch.testing.assert_close(shared, plain)


def test_a_prefix_that_did_not_arrive_is_an_error() -> None:
    query = key = torch.randn(1, 3, 2, 8)

    with pytest.raises(PrefixNotSharedError, match="Layer does not pass"):
        prefix_attention(Layer(), query, key, key, torch.ones(1, 1, 2, 9, dtype=torch.bool))
