"""The probability of each label, from the model's scores of the next token; nothing is written.

The labels are laid out as a tree of tokens, each closed by the end of the turn. Where a branch
divides, the model's probabilities of the tokens that may come next are scaled to sum to 1, and a
label's probability is the product along its way: the distribution that constrained decoding at
temperature 1 draws from. A conversation takes one forward pass for every place where labels divide:
one, if all differ in their first token. They run together, and the engine's prefix cache computes
the conversation, which they share, once.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from prompt_distillation.engines.base import Engine, EngineOptions, Request, Sampling
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import TaskError


class TokenScorer(Protocol):
    """What an engine can do that has the model at hand: tell how likely tokens are next."""

    @property
    def name(self) -> str:
        """``vllm`` or ``transformers``."""

    @property
    def concurrency(self) -> int:
        """How many questions to keep in flight."""

    async def next_token_logprobs(self, prompt: list[int], token_ids: Sequence[int]) -> list[float]:
        """Natural logarithms of the probabilities of ``token_ids`` after ``prompt``, in order.

        Raises:
            RequestFailedError: this prompt cannot be scored.
            EngineError: the engine is gone.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """What one conversation's labels scored."""

    probabilities: dict[str, float]
    prompt_tokens: int
    questions: int
    seconds: float


@dataclass(slots=True)
class _Node:
    """Where labels that begin alike divide: the next token of each branch."""

    path: tuple[int, ...]
    branches: dict[int, "str | _Node"] = field(default_factory=dict)

    def walk(self) -> "Iterator[_Node]":
        """This node and all below it, parents first."""
        yield self
        for branch in self.branches.values():
            if isinstance(branch, _Node):
                yield from branch.walk()


class LabelScorer:
    """Scores a fixed set of labels.

    Raises:
        TaskError: two labels are the same tokens.
    """

    def __init__(self, engine: TokenScorer, encoder: PromptEncoder, labels: Sequence[str]) -> None:
        self.name = engine.name
        self.concurrency = engine.concurrency
        self._engine = engine
        self._encoder = encoder
        tokenizer = encoder.tokenizer
        ways = {
            label: (*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id)
            for label in labels
        }
        if len(set(ways.values())) < len(ways):
            raise TaskError(
                f"two of the labels {', '.join(labels)} are the same tokens; rename one of them"
            )
        self._nodes = list(_grow(ways, ()).walk())

    async def complete(self, request: Request) -> LabelScores:
        """Score the labels as the answer to a conversation; its sampling plays no part."""
        started = time.perf_counter()
        prompt = self._encoder.encode(request)
        rows = await asyncio.gather(
            *(
                self._engine.next_token_logprobs([*prompt, *node.path], list(node.branches))
                for node in self._nodes
            )
        )
        return LabelScores(
            probabilities=_probabilities(self._nodes, rows),
            prompt_tokens=sum(len(prompt) + len(node.path) for node in self._nodes),
            questions=len(self._nodes),
            seconds=time.perf_counter() - started,
        )


def _probabilities(nodes: Sequence[_Node], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Multiply along the ways."""
    from scipy.special import logsumexp

    reached = {nodes[0].path: 0.0}  # logarithm of the probability of getting to a node
    found = {}
    for node, row in zip(nodes, rows, strict=True):
        total = float(logsumexp(row))
        for branch, logarithm in zip(node.branches.values(), row, strict=True):
            here = reached[node.path] + logarithm - total
            if isinstance(branch, _Node):
                reached[branch.path] = here
            else:
                found[branch] = math.exp(here)
    return found


def _grow(ways: dict[str, tuple[int, ...]], path: tuple[int, ...]) -> _Node:
    """The tree of labels that all begin with ``path``; it divides right after it."""
    depth = len(path)
    while len({way[depth] for way in ways.values()}) == 1:  # all go on alike
        depth += 1
    node = _Node(path=next(iter(ways.values()))[:depth])
    for token in dict.fromkeys(way[depth] for way in ways.values()):
        below = {label: way for label, way in ways.items() if way[depth] == token}
        node.branches[token] = (
            next(iter(below)) if len(below) == 1 else _grow(below, (*node.path, token))
        )
    return node


async def make_label_scorer(
    engine: Engine, options: EngineOptions, labels: Sequence[str]
) -> LabelScorer:
    """Put a scorer on an open engine, not a server's, and ask it once: vLLM compiles a kernel."""
    encoder = await asyncio.to_thread(PromptEncoder.of, options)
    scorer = LabelScorer(cast(TokenScorer, engine), encoder, labels)
    await scorer.complete(Request(messages=({"role": "user", "content": ""},), sampling=Sampling()))
    return scorer
