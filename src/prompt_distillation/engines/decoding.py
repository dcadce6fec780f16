"""Drawing tokens for a batch in which each row has its own temperature, seed and limits.

A row's draws come from its own generator, one uniform number a token, so what is drawn does not
depend on which rows share its batch (beyond the rounding of batched matrix products).
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from prompt_distillation.engines.base import FinishReason, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Token ids with a meaning.

    Attributes:
        end_of_turn: each of them ends a completion.
        start_of_thinking: the sequence ``<think>``.
        end_of_thinking: the sequence ``</think>``.
    """

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
        sampling: how its tokens are drawn.
        marks: where turns and reasoning end.
        max_new_tokens: the sampling's limit, or what the model's context leaves if that is less.
        choices: token ids of each allowed text, where decoding is constrained.
        thinking: whether the reasoning is open.
        token_ids: what was written, without the end-of-turn token.
        completion_tokens: how many were drawn, the end-of-turn token included.
        cached_tokens: prompt tokens whose keys and values were not computed for this row.
        finish_reason: set when the row is done.
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
    generator: random.Random = field(init=False)
    _forced: deque[int] = field(init=False, default_factory=deque)
    _thinking_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.sampling.seed)

    def allowed_ids(self) -> list[int] | None:
        """Token ids that may come next; None for all."""
        if self._forced:
            return [self._forced[0]]
        return self._continuations() if self.choices is not None else None

    def take(self, token: int) -> None:
        """Append the token drawn and see whether the completion is done."""
        self.completion_tokens += 1
        if token in self.marks.end_of_turn:
            self.finish_reason = "stop"
            return
        self.token_ids.append(token)
        if self._forced:
            self._forced.popleft()
        if self.sampling.max_thinking_tokens is not None:
            self._watch_thinking(self.sampling.max_thinking_tokens)
        if self.choices is not None and not self._continuations():
            self.finish_reason = "stop"
        elif self.completion_tokens >= self.max_new_tokens:
            self.finish_reason = "length"

    def _continuations(self) -> list[int]:
        """What `choices` allow next: the end of the turn where one is complete but may go on."""
        written = len(self.token_ids)
        fitting = [c for c in self.choices or () if list(c[:written]) == self.token_ids]
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
        end = self.marks.end_of_thinking
        if tuple(self.token_ids[-len(end) :]) == end:
            self.thinking = False
            self._forced.clear()
        elif not self._forced and self._thinking_tokens >= budget:
            self._forced.extend(end)


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
