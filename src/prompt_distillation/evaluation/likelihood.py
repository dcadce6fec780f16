"""How likely texts are under a model: perplexity, and the distributions of next tokens.

Models are loaded by transformers, one after the other, because an engine that serves tells the
probabilities of a few tokens only.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prompt_distillation.data.intervals import Estimate, bootstrap
from prompt_distillation.data.probes import Divergence, Perplexity
from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import InputError, ModelError
from prompt_distillation.tasks import ChatMessage

if TYPE_CHECKING:
    import torch

Conversation = tuple[tuple[ChatMessage, ...], str]
"""The turns up to the user's last, and the answer to it."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The negative log-likelihood of a text, in nats, and of how many tokens."""

    nats: float
    tokens: int


class LikelihoodModel:
    """A loaded model that scores texts.

    Args:
        options: which model; what only engines have a use for is ignored.
        encoder: of its conversations. A student and its base share one, so that both are asked
            about the same tokens.
    """

    def __init__(self, options: EngineOptions, encoder: PromptEncoder) -> None:
        from prompt_distillation.engines.transformers import load_model

        self._model: Any = load_model(options)
        self._encoder = encoder
        own = self._model.config.get_text_config().max_position_embeddings
        self._longest: int = min(options.max_model_len or own, own)

    def score_answers(self, conversations: Sequence[Conversation]) -> list[ScoredText | None]:
        """Score each answer, its end of turn included; None where it is too long."""
        return [self._score(*self._encode(one)) for one in conversations]

    def score_texts(self, texts: Sequence[str]) -> list[ScoredText | None]:
        """Score plain texts, all tokens but the first; None for one that is too long or short."""
        scores = []
        for text in texts:
            ids = self._encoder.tokenizer.encode(text, add_special_tokens=True)
            scores.append(self._score(ids[:1], ids[1:]))
        return scores

    def distributions(self, conversations: Sequence[Conversation]) -> "list[torch.Tensor]":
        """The distribution of the next token at each token of each answer, its end included.

        Returns:
            For each answer, natural logarithms, tokens x vocabulary, float32, on the CPU.
        """
        return [self._logprobs(*self._encode(one)) for one in conversations]

    def _encode(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        turns, text = conversation
        reply: ChatMessage = {"role": "assistant", "content": text}
        context, answer = self._encoder.encode_example(turns, reply)
        end = self._encoder.tokenizer.eos_token_id
        # What a template writes behind the end of the turn, no model ever writes.
        last = max((place for place, token in enumerate(answer) if token == end), default=None)
        return context, answer if last is None else answer[: last + 1]

    def _score(self, context: list[int], answer: list[int]) -> ScoredText | None:
        if not context or not answer or len(context) + len(answer) > self._longest:
            return None
        logprobs = self._logprobs(context, answer)
        return ScoredText(-float(logprobs[range(len(answer)), answer].sum()), len(answer))

    def _logprobs(self, context: list[int], answer: list[int]) -> "torch.Tensor":
        import torch

        ids = torch.tensor([[*context, *answer]], device=self._model.device)
        with torch.inference_mode():
            # Only the rows that are looked at: a whole text of logits can be gigabytes.
            logits = self._model(ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
            return logits.float().log_softmax(-1).cpu()

    def forget(self) -> None:
        """Let go of the model's memory."""
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def likelihood_model(options: EngineOptions, encoder: PromptEncoder) -> Iterator[LikelihoodModel]:
    """Load a model that scores texts, and free its memory when the block ends.

    Raises:
        EngineError, ModelError: it cannot be loaded.
    """
    model = LikelihoodModel(options, encoder)
    try:
        yield model
    finally:
        model.forget()


def perplexity(
    before: Sequence[ScoredText | None], after: Sequence[ScoredText | None], *, what: str
) -> Perplexity:
    """The perplexity of texts under two models; texts that one of them cannot score are left out.

    Args:
        before: a score of each text, by the student before distillation.
        after: the same by the student.
        what: names the texts in messages.

    Raises:
        InputError: no text can be scored.
    """
    pairs = [(one, two) for one, two in zip(before, after, strict=True) if one and two]
    if not pairs:
        raise InputError(
            f"none of {len(before)} texts can be scored ({what}): each is empty or longer than "
            "the model takes; use other texts, or raise --max_model_len"
        )
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    return Perplexity(
        texts=len(pairs),
        tokens=sum(two.tokens for two in second),
        left_out=len(before) - len(pairs),
        before=_perplexity_of(first),
        after=_perplexity_of(second),
    )


def _perplexity_of(scores: Sequence[ScoredText]) -> Estimate:
    def of(chosen: Any) -> float:
        nats, tokens = chosen.sum(axis=0)
        return math.exp(nats / tokens)

    return bootstrap(of, [(score.nats, score.tokens) for score in scores])


def divergence(before: "Sequence[torch.Tensor]", after: "Sequence[torch.Tensor]") -> Divergence:
    """KL(student || base): the mean over tokens of the sum over the vocabulary of p log(p / q).

    Args:
        before: the logarithms of the base's distributions q, for each answer; not empty.
        after: of the student's distributions p at the same tokens.

    Raises:
        ModelError: the two have vocabularies of different sizes.
    """
    sums = []
    for base, student in zip(before, after, strict=True):
        if base.shape != student.shape:
            raise ModelError(
                f"the student knows {student.shape[1]} tokens and its base {base.shape[1]}, so "
                "that their distributions cannot be compared; check --base_model, or leave "
                "forgetting out of --probes"
            )
        each = (student.exp() * (student - base)).sum(-1)
        sums.append((float(each.sum()), len(each)))

    def of(chosen: Any) -> float:
        nats, tokens = chosen.sum(axis=0)
        return max(float(nats / tokens), 0.0)  # rounding may leave a little less than nothing

    return Divergence(
        prompts=len(before),
        tokens=sum(tokens for _, tokens in sums),
        nats_per_token=bootstrap(of, sums),
    )
