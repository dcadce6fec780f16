"""How likely is each label? One pass over the prompt, and nothing is written.

The labels are laid out as a tree of tokens, each closed by the end of the turn. Where a branch
divides, the model's probabilities of the tokens that may come next are scaled to sum to 1, and a
label's probability is the product along its way: the distribution that constrained decoding at
temperature 1 draws from. Labels that differ in their first token, as most do, need one pass;
every further division needs one more.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from prompt_distillation.engines.base import Engine, EngineKind, EngineOptions, Request, Sampling
from prompt_distillation.engines.opening import open_engine, resolve_engine_kind
from prompt_distillation.engines.prompts import PromptEncoder, load_tokenizer
from prompt_distillation.errors import EngineError, TaskError
from prompt_distillation.task import ChatMessage


class TokenScorer(Protocol):
    """What an engine can do that has the model at hand: tell how likely tokens are next."""

    @property
    def name(self) -> str:
        """``vllm`` or ``transformers``."""

    @property
    def concurrency(self) -> int:
        """How many prompts to score at once."""

    async def next_token_logprobs(
        self, prompts: Sequence[list[int]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """Natural logarithms of the probabilities of ``token_ids`` after each prompt.

        Args:
            prompts: token ids, each list a prompt.
            token_ids: the tokens asked about.

        Returns:
            A row per prompt, aligned with ``token_ids``.

        Raises:
            RequestFailedError: one of the prompts cannot be scored.
            EngineError: the engine is gone.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """What one conversation's labels scored.

    Attributes:
        probabilities: label -> probability; they sum to 1.
        prompt_tokens: of all passes.
        passes: how many prompts were scored.
        seconds: from submission of the batch this conversation was in to its end.
    """

    probabilities: dict[str, float]
    prompt_tokens: int
    passes: int
    seconds: float


@dataclass(slots=True)
class _Node:
    """Where labels that begin alike divide: the next token of each branch."""

    path: tuple[int, ...]
    branches: dict[int, "str | _Node"] = field(default_factory=dict)


class LabelScorer:
    """Scores a fixed set of labels.

    Args:
        engine: the model.
        tokenizer: its tokenizer.
        labels: at least two texts.
        model: the model's name, for errors.

    Raises:
        TaskError: two labels are the same tokens.
    """

    def __init__(
        self, engine: TokenScorer, tokenizer: Any, labels: Sequence[str], *, model: str
    ) -> None:
        self.name = engine.name
        self.concurrency = engine.concurrency
        self._engine = engine
        self._encoder = PromptEncoder(tokenizer, model=model)
        ways = {
            label: (*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id)
            for label in labels
        }
        if len(set(ways.values())) < len(ways):
            raise TaskError(f"two of the labels {', '.join(labels)} are the same tokens")
        self._root = _grow(ways, ())

    async def score(self, conversations: Sequence[Sequence[ChatMessage]]) -> list[LabelScores]:
        """Score the labels after each conversation, all in one batch."""
        started = time.perf_counter()
        sampling = Sampling()
        prompts = [
            self._encoder.encode(Request(messages=tuple(turns), sampling=sampling))
            for turns in conversations
        ]
        found: list[dict[str, float]] = [{} for _ in prompts]
        divisions = await self._descend(self._root, prompts, [0.0] * len(prompts), found)
        seconds = time.perf_counter() - started
        return [
            LabelScores(
                probabilities=probabilities,
                prompt_tokens=sum(len(prompt) + depth for depth in divisions),
                passes=len(divisions),
                seconds=seconds,
            )
            for prompt, probabilities in zip(prompts, found, strict=True)
        ]

    async def _descend(
        self,
        node: _Node,
        prompts: Sequence[list[int]],
        reached: Sequence[float],
        found: list[dict[str, float]],
    ) -> list[int]:
        """Fill ``found`` with the labels below ``node``; returns the depths of all divisions.

        Args:
            node: where the labels divide.
            prompts: token ids of the conversations.
            reached: logarithm of the probability of getting to ``node``, per prompt.
            found: label -> probability, per prompt.
        """
        tokens = list(node.branches)
        rows = await self._engine.next_token_logprobs(
            [prompt + list(node.path) for prompt in prompts], tokens
        )
        totals = [_log_sum(row) for row in rows]
        divisions = [len(node.path)]
        for column, token in enumerate(tokens):
            branch = node.branches[token]
            here = [
                before + row[column] - total
                for before, row, total in zip(reached, rows, totals, strict=True)
            ]
            if isinstance(branch, _Node):
                divisions += await self._descend(branch, prompts, here, found)
            else:
                for probabilities, logarithm in zip(found, here, strict=True):
                    probabilities[branch] = math.exp(logarithm)
        return divisions


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


def _log_sum(logarithms: Sequence[float]) -> float:
    highest = max(logarithms)
    return highest + math.log(sum(math.exp(value - highest) for value in logarithms))


@asynccontextmanager
async def open_label_scorer(
    kind: EngineKind, options: EngineOptions, labels: Sequence[str]
) -> AsyncIterator[LabelScorer]:
    """Load a model that scores ``labels``, and free it when the block ends.

    Raises:
        EngineError: a server was asked for: it has no probabilities of given tokens.
        ModelError: there is no such model or adapter.
    """
    if resolve_engine_kind(kind) == "server":
        raise EngineError(
            "labels cannot be scored over a server; use --engine vllm or transformers, or "
            "--decoding constrained"
        )
    tokenizer = await asyncio.to_thread(load_tokenizer, options)
    async with open_engine(kind, options) as engine:
        yield LabelScorer(_token_scorer(engine), tokenizer, labels, model=options.model)


def _token_scorer(engine: Engine) -> TokenScorer:
    # Every engine but the server's, which was refused above, is one.
    return cast(TokenScorer, engine)
