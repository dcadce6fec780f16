"""Completions for a batch of prompts, token by token, with what the prompts share computed once.

`BatchGenerator` runs the model; a `Row` is one completion with its own temperature, seed and
limits. A row's draws come from its own generator, one uniform number a token, so what is drawn does
not depend on which rows share its batch (beyond the rounding of batched matrix products).
"""

import copy
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from prompt_distillation.engines.base import FinishReason, Sampling
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Token ids with a meaning."""

    end_of_turn: frozenset[int]
    start_of_thinking: tuple[int, ...]
    end_of_thinking: tuple[int, ...]

    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside ``<think>``, as thinking models' templates do."""
        # The template writes the mark and a line feed; a few tokens' room, but no user's text.
        tail = list(prompt_ids[-len(self.start_of_thinking) - 2 :])
        return _find(tail, self.start_of_thinking) and not _find(tail, self.end_of_thinking)


def _find(ids: Sequence[int], mark: Sequence[int]) -> bool:
    width = len(mark)
    return any(tuple(ids[at : at + width]) == tuple(mark) for at in range(len(ids) - width + 1))


@dataclass(slots=True)
class Row:
    """One completion being written.

    Attributes:
        max_new_tokens: the sampling's limit, or what the model's context leaves if that is less.
        choices: token ids of each allowed text, where decoding is constrained; where the model
            reasons first (``sampling.thinking``), of what follows ``</think>``.
        thinking: whether the reasoning is open.
        token_ids: what was written, without the end-of-turn token.
        completion_tokens: how many were drawn, the end-of-turn token included.
        cached_tokens: prompt tokens whose keys and values were not computed for this row.
        finish_reason: set when the row is done.
        scores: each token after the reasoning with its most likely alternatives and their
            log-probabilities, where the sampling asks for them.
    """

    sampling: Sampling
    marks: Marks
    max_new_tokens: int
    choices: Sequence[Sequence[int]] | None = None
    thinking: bool = False
    token_ids: list[int] = field(default_factory=list)
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    scores: list[tuple[int, list[tuple[int, float]]]] = field(default_factory=list)
    generator: random.Random = field(init=False)
    _forced: deque[int] = field(init=False, default_factory=deque)
    _thinking_tokens: int = field(init=False, default=0)
    _constrained_from: int | None = field(init=False, default=None)
    _answers: bool = field(init=False)

    def __post_init__(self) -> None:
        self._answers = not self.thinking
        self.generator = random.Random(self.sampling.seed)
        if self.choices is not None and not self.sampling.thinking:
            self._constrained_from = 0

    @property
    def wants_scores(self) -> bool:
        """Whether the next token's alternatives are to be kept."""
        return self.sampling.top_logprobs > 0 and self._answers

    def allowed_ids(self) -> list[int] | None:
        """Token ids that may come next; None for all."""
        if self._forced:
            return [self._forced[0]]
        return self._continuations() if self._constrained_from is not None else None

    def take(self, token: int) -> None:
        """Append the token drawn and see whether the completion is done."""
        self.completion_tokens += 1
        if token in self.marks.end_of_turn:
            self.finish_reason = "stop"
            return
        self.token_ids.append(token)
        if self._forced:
            self._forced.popleft()
        if self.sampling.top_logprobs and self._ends_thinking():
            self.scores.clear()
            self._answers = True
        if self.sampling.max_thinking_tokens is not None:
            self._watch_thinking(self.sampling.max_thinking_tokens)
        if self._constrained_from is not None and not self._continuations():
            self.finish_reason = "stop"
        elif self.completion_tokens >= self.max_new_tokens:
            self.finish_reason = "length"
        if self.choices is not None and self._constrained_from is None and self._ends_thinking():
            self._constrained_from = len(self.token_ids)

    def _continuations(self) -> list[int]:
        """What `choices` allow next: the end of the turn where one is complete but may go on."""
        answer = self.token_ids[self._constrained_from :]
        written = len(answer)
        fitting = [c for c in self.choices or () if list(c[:written]) == answer]
        allowed = {choice[written] for choice in fitting if len(choice) > written}
        if allowed and any(len(choice) == written for choice in fitting):
            allowed |= self.marks.end_of_turn
        return sorted(allowed)

    def _watch_thinking(self, budget: int) -> None:
        """Write the end of the reasoning as soon as its budget is spent."""
        if not self.thinking:
            self.thinking = tuple(self.token_ids) == self.marks.start_of_thinking
            return
        self._thinking_tokens += 1
        if self._ends_thinking():
            self.thinking = False
            self._forced.clear()
        elif not self._forced and self._thinking_tokens >= budget:
            self._forced.extend(self.marks.end_of_thinking)

    def _ends_thinking(self) -> bool:
        """Whether the last token completed ``</think>``."""
        end = self.marks.end_of_thinking
        return tuple(self.token_ids[-len(end) :]) == end


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """Draw the next token of each row.

    Args:
        logits: 2-D float tensor, rows x vocabulary; scores that are not allowed are overwritten.
        rows: in the same order.
    """
    for index, row in enumerate(rows):
        allowed = row.allowed_ids()
        if allowed is not None:
            kept = logits[index, allowed]
            logits[index] = -torch.inf
            logits[index, allowed] = kept
    tokens = logits.argmax(dim=-1)
    for whole_mass in (True, False):
        chosen = [
            index
            for index, row in enumerate(rows)
            if row.sampling.temperature > 0 and (row.sampling.top_p >= 1) is whole_mass
        ]
        if chosen:
            drawn = _sample(logits[chosen], [rows[index] for index in chosen], whole_mass)
            tokens[chosen] = drawn
    return [int(token) for token in tokens.tolist()]


def _sample(logits: torch.Tensor, rows: Sequence[Row], whole_mass: bool) -> torch.Tensor:
    """Inverse transform sampling: one uniform number a row, whatever the vocabulary's size."""
    like = {"device": logits.device, "dtype": torch.float32}
    temperatures = torch.tensor([row.sampling.temperature for row in rows], **like)
    probabilities = torch.softmax(logits.float() / temperatures[:, None], dim=-1)
    uniform = torch.tensor([row.generator.random() for row in rows], **like)[:, None]
    if whole_mass:
        cumulative = probabilities.cumsum(dim=-1)
        point = uniform * cumulative[:, -1:]
        last = cumulative.shape[1] - 1
        return torch.searchsorted(cumulative, point, right=True).clamp(max=last)[:, 0]
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1)
    top_p = torch.tensor([row.sampling.top_p for row in rows], **like)[:, None]
    # The smallest set whose mass reaches top_p: tokens before which less than it has passed.
    last = ((cumulative - ordered < top_p).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    point = uniform * cumulative.gather(1, last)
    index = torch.searchsorted(cumulative, point, right=True).minimum(last)
    return ids.gather(1, index)[:, 0]


class BatchGenerator:
    """Writes completions for batches of prompts, remembering what successive prompts share."""

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

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run(
        self,
        prompts: Sequence[list[int]],
        rows: Sequence[Row],
        *,
        on_token: Callable[[int], None],
        is_dropped: Callable[[int], bool],
    ) -> None:
        """Write ``rows``, one for each prompt of token ids, to their ends.

        ``on_token`` is called with a row's index after each of its tokens; ``is_dropped`` says of a
        row whether no caller waits for it any more.
        """
        computed = self._prepare_prefix(prompts)
        prefix_length = len(self._prefix)
        for index, row in enumerate(rows):
            row.cached_tokens = 0 if computed and index == 0 else prefix_length
        tokens, mask = self._pad([prompt[prefix_length:] for prompt in prompts])
        cache = self._spread_prefix(len(rows))
        alive = list(range(len(rows)))
        while True:
            logits = self._forward(tokens, mask, cache)
            scored = [at for at, index in enumerate(alive) if rows[index].wants_scores]
            # Before drawing: what is not allowed is overwritten there.
            logprobs = logits[scored].log_softmax(dim=-1)
            drawn = draw(logits, [rows[index] for index in alive])
            _keep_scores([rows[alive[at]] for at in scored], [drawn[at] for at in scored], logprobs)
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

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def next_token_logprobs(
        self, prompts: Sequence[list[int]], asked: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probabilities after each prompt of the tokens that ``asked`` lists for it."""
        self._prepare_prefix(prompts)
        tokens, mask = self._pad([prompt[len(self._prefix) :] for prompt in prompts])
        logits = self._forward(tokens, mask, self._spread_prefix(len(prompts)))
        logprobs = logits.log_softmax(dim=-1)
        return [row[list(ids)].tolist() for row, ids in zip(logprobs, asked, strict=True)]

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
        is_behind = any(isinstance(layer, OwnTokensLayer) for layer in cache.layers)
        shared = {"shared_prefix": self._shared} if is_behind else {}
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


def _keep_scores(rows: Sequence[Row], drawn: Sequence[int], logprobs: torch.Tensor) -> None:
    """Keep each row's most likely alternatives to the token drawn, and that token's own score.

    ``logprobs`` is rows x vocabulary.
    """
    if not rows:
        return
    top = min(max(row.sampling.top_logprobs for row in rows), logprobs.shape[1])
    values, ids = logprobs.topk(top, dim=-1)
    own = logprobs.gather(1, torch.tensor(drawn, device=logprobs.device)[:, None])
    found = zip(rows, drawn, own[:, 0].tolist(), ids.tolist(), values.tolist(), strict=True)
    for row, token, logprob, tokens, scores in found:
        row.scores.append((token, [(token, logprob), *zip(tokens, scores, strict=True)]))
