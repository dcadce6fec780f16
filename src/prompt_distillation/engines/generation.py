"""A batch of prompts through a transformers model, token by token, the shared prefix once."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from prompt_distillation.engines.decoding import Row, draw
from prompt_distillation.engines.prefix_attention import (
    OwnTokensLayer,
    PrefixNotSharedError,
    SharedPrefix,
    own_tokens_cache,
    shared_prefix,
    use_prefix_attention,
)
from prompt_distillation.engines.prompts import shared_prefix_length

logger = logging.getLogger(__name__)

# Below this many tokens a prefix is cheaper to compute again than to keep.
SHORTEST_PREFIX_TOKENS = 32


class BatchGenerator:
    """Writes completions for batches of prompts, remembering what successive prompts share.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        pad_token_id: fills the left of shorter prompts; masked, so any id will do.
        prefix_caching: whether to remember it.
    """

    def __init__(self, model: Any, *, pad_token_id: int, prefix_caching: bool = True) -> None:
        self._model = model
        self._prefix_caching = prefix_caching
        self._pad_token_id = pad_token_id
        self._previous_prompt: list[int] = []
        self._prefix: list[int] = []
        self._prefix_cache: DynamicCache | None = None
        # Whether all rows can share one copy of the prefix; known once there is one to try it on.
        self._sharing: bool | None = (
            None if prefix_caching and use_prefix_attention(model) else False
        )
        self._shared: SharedPrefix | None = None

    def run(
        self,
        prompts: Sequence[list[int]],
        rows: Sequence[Row],
        *,
        on_token: Callable[[int], None],
        is_dropped: Callable[[int], bool],
    ) -> None:
        """Write ``rows`` to their ends.

        Args:
            prompts: token ids, one list a row.
            rows: what is filled.
            on_token: called with the row's index after each of its tokens.
            is_dropped: whether nobody waits for a row any more.
        """
        with torch.inference_mode():
            self._run(prompts, rows, on_token, is_dropped)

    def next_token_logprobs(
        self, prompts: Sequence[list[int]], asked: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probabilities after each prompt of the tokens that ``asked`` lists for it."""
        with torch.inference_mode():
            self._prepare_prefix(prompts)
            tokens, mask = self._pad([prompt[len(self._prefix) :] for prompt in prompts])
            logits = self._forward(tokens, mask, self._spread_prefix(len(prompts)))
            logprobs = logits.log_softmax(dim=-1)
            return [row[list(ids)].tolist() for row, ids in zip(logprobs, asked, strict=True)]

    def _run(
        self,
        prompts: Sequence[list[int]],
        rows: Sequence[Row],
        on_token: Callable[[int], None],
        is_dropped: Callable[[int], bool],
    ) -> None:
        computed = self._prepare_prefix(prompts)
        prefix_length = len(self._prefix)
        for index, row in enumerate(rows):
            row.cached_tokens = 0 if computed and index == 0 else prefix_length
        tokens, mask = self._pad([prompt[prefix_length:] for prompt in prompts])
        cache = self._spread_prefix(len(rows))
        alive = list(range(len(rows)))
        while True:
            logits = self._forward(tokens, mask, cache)
            drawn = draw(logits, [rows[index] for index in alive])
            for index, token in zip(alive, drawn, strict=True):
                rows[index].take(token)
                on_token(index)
            kept = [
                at
                for at, index in enumerate(alive)
                if rows[index].finish_reason is None and not is_dropped(index)
            ]
            if not kept:
                return
            if len(kept) < len(alive):
                selected = torch.tensor(kept, device=mask.device)
                cache.batch_select_indices(selected)
                mask = mask[selected]
            alive = [alive[at] for at in kept]
            tokens = torch.tensor([[drawn[at]] for at in kept], device=mask.device)
            mask = torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, cache: Cache) -> Any:
        """Scores of the next token.

        Args:
            tokens: 2-D, rows x new tokens.
            mask: 2-D, rows x (cached + new tokens); 0 where there is padding.
            cache: keys and values of what came before; extended in place. That of
                `own_tokens_cache` stands behind the shared prefix.

        Returns:
            2-D float tensor, rows x vocabulary.
        """
        shared = {"shared_prefix": self._shared} if _behind_prefix(cache) else {}
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **shared,
        )
        return output.logits[:, -1].float()

    def _pad(self, suffixes: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids padded on the left, and the mask that also covers the cached prefix."""
        width = max(map(len, suffixes))
        gaps = [width - len(suffix) for suffix in suffixes]
        tokens = [
            [self._pad_token_id] * gap + suffix for gap, suffix in zip(gaps, suffixes, strict=True)
        ]
        prefix = [1] * len(self._prefix)
        mask = [prefix + [0] * gap + [1] * (width - gap) for gap in gaps]
        device = self._model.device
        return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)

    def _prepare_prefix(self, prompts: Sequence[list[int]]) -> bool:
        """Make `_prefix` a common prefix of ``prompts``; whether it had to be computed."""
        if not self._prefix_caching:
            return False
        shortest = min(map(len, prompts))
        # With the batch before: a single request too then finds the prompt that they share.
        before = [self._previous_prompt] if self._previous_prompt else []
        length = min(shared_prefix_length([*prompts, *before]), shortest - 1)
        shared = prompts[0][:length]
        self._previous_prompt = prompts[-1]
        if self._prefix and shared[: len(self._prefix)] == self._prefix:
            return False
        self._prefix, self._prefix_cache, self._shared = [], None, None
        if len(shared) < SHORTEST_PREFIX_TOKENS or (len(prompts) == 1 and not before):
            return False
        cache = DynamicCache(config=self._model.config)
        tokens = torch.tensor([shared], device=self._model.device)
        self._forward(tokens, torch.ones_like(tokens), cache)
        # Sliding windows and recurrent states cannot take padding between prefix and suffix.
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return False
        self._prefix, self._prefix_cache = shared, cache
        if self._sharing is not False:
            self._share(cache)
        return True

    def _share(self, cache: DynamicCache) -> None:
        """Keep one copy of the prefix for all rows; once, look whether the model can use it."""
        self._shared = shared_prefix(cache)
        if self._sharing is None:
            self._sharing = self._can_share(cache)
        if self._sharing:
            self._prefix_cache = None
        else:
            self._shared = None

    def _can_share(self, cache: DynamicCache) -> bool:
        """Whether a token behind the shared prefix scores as behind the cache as it is."""
        assert self._shared is not None
        tokens = torch.tensor([self._prefix[-1:]], device=self._model.device)
        mask = tokens.new_ones(1, len(self._prefix) + 1)
        try:
            shared = self._forward(tokens, mask, own_tokens_cache(self._shared))
        except PrefixNotSharedError as error:
            logger.debug("each row gets a copy of the prefix: %s", error)
            return False
        plain = self._forward(tokens, mask, copy.deepcopy(cache))
        # Rounding in half precision is far below this, a prefix left out far above it.
        return bool((shared - plain).abs().max() < 0.1 * plain.abs().max())

    def _spread_prefix(self, rows: int) -> Cache:
        """A cache for ``rows`` rows that begins with the prefix."""
        if self._shared is not None:
            return own_tokens_cache(self._shared)
        if self._prefix_cache is None:
            return DynamicCache(config=self._model.config)
        cache = copy.deepcopy(self._prefix_cache)
        cache.batch_repeat_interleave(rows)
        return cache


def _behind_prefix(cache: Cache) -> bool:
    return any(isinstance(layer, OwnTokensLayer) for layer in cache.layers)
