"""Attention in which all rows of a batch share one copy of their common beginning.

Caches of transformers hold the keys and values of every row: under a long prompt that is the same
thousands of tokens over and over, copied for each batch and read for each new token. Here the
prefix is held once, the queries of all rows meet it in one matrix product, and a row's cache holds
its own tokens only. The softmax runs over both together, so that the result is that of ordinary
attention (up to rounding; scores are computed in float32, as its fused kernels do).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prompt_distillation.errors import EngineError

NAME = "shared_prefix"

# Scores held at once, in float32: 256 MB. Rows beyond that follow one after the other.
MOST_SCORES = 2**26


class PrefixNotSharedError(EngineError):
    """The model's code does not hand the prefix on to its attention."""


@dataclass(frozen=True, slots=True)
class LayerPrefix:
    """Keys and values of the prefix in one layer: float32, key-value heads x tokens x width."""

    keys: torch.Tensor
    values: torch.Tensor


SharedPrefix = Sequence[LayerPrefix]


class OwnTokensLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Holds the tokens behind the prefix, and counts the prefix."""

    def __init__(self, prefix_length: int) -> None:
        super().__init__()
        self._prefix_length = prefix_length

    def get_seq_length(self) -> int:
        """Tokens of the prefix and of the rows."""
        return self._prefix_length + int(super().get_seq_length())


def use_prefix_attention(model: Any) -> bool:
    """Let ``model`` attend through `prefix_attention`, where its code allows; whether it does."""
    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, prefix_attention)
    AttentionMaskInterface.register(NAME, prefix_mask)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def shared_prefix(cache: Cache) -> SharedPrefix:
    """Take the prefix out of the cache of the one row that it was computed with."""
    return [LayerPrefix(layer.keys[0].float(), layer.values[0].float()) for layer in cache.layers]


def own_tokens_cache(prefix: SharedPrefix) -> Cache:
    """An empty cache for rows that begin with ``prefix``."""
    return Cache(layers=[OwnTokensLayer(layer.keys.shape[1]) for layer in prefix])


def prefix_mask(*arguments: Any, q_offset: int = 0, **keywords: Any) -> Any:
    """`sdpa_mask`, never left out behind cached tokens: its width tells whether all are there."""
    if q_offset:
        keywords["allow_is_causal_skip"] = False
    return sdpa_mask(*arguments, q_offset=q_offset, **keywords)


def prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared_prefix: SharedPrefix | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers; plain `sdpa` without ``shared_prefix``.

    Args:
        module: the attention layer.
        query: rows x heads x new tokens x width.
        key: rows x key-value heads x own tokens x width.
        value: as ``key``.
        attention_mask: bool, rows x 1 x new tokens x (prefix + own tokens); the prefix is seen by
            all.
        shared_prefix: of all layers.
        keywords: scaling, and what `sdpa` takes besides.

    Returns:
        Rows x new tokens x heads x width, and no weights.
    """
    if shared_prefix is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            raise PrefixNotSharedError(
                f"{type(module).__name__} does not pass the shared prefix to its attention"
            )
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **keywords
        )
        return output
    assert attention_mask is not None
    rows, heads, length, width = query.shape
    prefix = shared_prefix[module.layer_idx]
    scaling = keywords.get("scaling") or width**-0.5
    at_once = max(1, MOST_SCORES // (heads * length * attention_mask.shape[-1]))
    parts = [
        _attend(query[some], key[some], value[some], attention_mask[some], prefix, scaling)
        for some in (slice(start, start + at_once) for start in range(0, rows, at_once))
    ]
    return torch.cat(parts).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    prefix: LayerPrefix,
    scaling: float,
) -> torch.Tensor:
    """Rows x heads x new tokens x width; see `prefix_attention` for the arguments' shapes."""
    rows, heads, length, width = query.shape
    kv_heads, prefix_length, _ = prefix.keys.shape
    # Key-value heads come first everywhere below, so that rows need not be copied to meet the
    # prefix together. Heads that share one are next to each other, and so are their queries.
    grouped = (query.float() * scaling).reshape(rows, kv_heads, -1, width).transpose(0, 1)
    together = grouped.reshape(kv_heads, -1, width)
    to_prefix = (together @ prefix.keys.transpose(1, 2)).view(kv_heads, rows, -1, prefix_length)
    to_own = grouped @ key.float().permute(1, 0, 3, 2)
    seen = mask[:, 0, :, prefix_length:].repeat(1, heads // kv_heads, 1)
    to_own = to_own.masked_fill(~seen, -torch.inf)
    weights = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1)
    of_prefix, of_own = weights.split([prefix_length, key.shape[2]], dim=-1)
    mixed = (of_prefix.flatten(1, 2) @ prefix.values).view(kv_heads, rows, -1, value.shape[-1])
    mixed = mixed + of_own @ value.float().transpose(0, 1)
    return mixed.transpose(0, 1).reshape(rows, heads, length, -1).to(query.dtype)
