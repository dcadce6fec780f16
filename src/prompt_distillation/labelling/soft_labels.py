"""What soft labels need of the votes, written beside the dataset: ``NAME.logprobs.parquet``.

Of each vote with an answer the file holds the log-probabilities of all tokens after the reasoning,
as the teacher wrote them. Where the answers are labels it also holds the probability of each label:
a student learns to write ``de`` where the teacher wrote ``Final Answer: de``, and no token of one
is a token of the other.

The probability of a label is read off where the written one stands, token by token. If an
alternative token could start several labels, its probability, times that of the written tokens
before it, is divided equally among them. What continues as written goes to the written label.
Tokens that start no label are dropped, and the remainder is renormalised.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.answer_logprobs import (
    AnswerLogprobs,
    LogprobsWriter,
    context_key,
    vocabulary_sha256,
)
from prompt_distillation.data.dataset_files import Record
from prompt_distillation.engines import engine_options
from prompt_distillation.errors import ConfigError
from prompt_distillation.labelling.votes_and_retries import ReadAttempt, Verdict
from prompt_distillation.tasks import Task

Texts = Sequence[tuple[str, Sequence[tuple[str, float]]]]
"""Each written token as text, with the texts and log-probabilities of its alternatives."""


def refuse_unusable(config: LabelConfig, task: Task) -> None:
    """Check that log-probabilities can be kept for this task by this engine.

    Raises:
        ConfigError: they cannot.
    """
    if config.top_logprobs and config.engine.engine == "server" and not task.labels:
        raise ConfigError(
            f"--top_logprobs {config.top_logprobs} over a server works for tasks with labels: a "
            f"server names tokens by their texts, and task {task.name!r} (kind {task.kind}) needs "
            "their ids; use --engine vllm or transformers"
        )


def votes_with_logprobs(verdict: Verdict, attempts: Sequence[ReadAttempt]) -> list[dict[str, Any]]:
    """The votes that have an answer, as JSON can hold them.

    ``attempts`` are ordered by vote and attempt.
    """
    found: dict[int, dict[str, Any]] = {}
    for attempt, answer in attempts:
        scores = attempt.completion.logprobs if attempt.completion else None
        if answer.text is None or scores is None or attempt.vote >= verdict.cast:
            continue
        vote = {"answer": answer.text, "span": answer.span, "logprobs": scores.as_row()}
        found.setdefault(attempt.vote, vote)
    return list(found.values())


class SoftLabelWriter:
    """Writes the votes of each input."""

    def __init__(self, file: IO[bytes], config: LabelConfig, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._tokenizer: Any = None
        if config.engine.engine != "server":
            # Not the engine's own: where shards are merged there is no engine.
            from prompt_distillation.engines.prompts import load_tokenizer

            options = engine_options(config.model, config.engine, seed=config.sampling.seed)
            self._tokenizer = load_tokenizer(options)
        self._texts: dict[int, str] = {}
        self._writer = LogprobsWriter(
            file,
            top=config.top_logprobs,
            labels=self._labels,
            vocabulary=vocabulary_sha256(self._tokenizer) if self._tokenizer else None,
        )

    def add(self, record: Record, votes: Sequence[Mapping[str, Any]]) -> None:
        """Write the votes on an input, unless its answer is a person's, or there is none."""
        if record["answer"] is None or record["answer"] != record["teacher_answer"]:
            return
        context = [*record["history"], {"role": "user", "content": record["text"]}]
        for vote in votes:
            scores = AnswerLogprobs.from_row(vote["logprobs"])
            shares: list[float] = []
            if self._labels:
                start = vote["span"][0] if vote["span"] else 0
                found = label_distribution(vote["answer"], self._labels, *self._from(scores, start))
                shares = [found[label] for label in self._labels]
            self._writer.write(context_key(context), vote["answer"], scores, shares)

    def close(self) -> tuple[int, int]:
        """Finish the file; returns how many tokens it holds, and its bytes."""
        size = self._writer.close()
        return self._writer.tokens, size

    def _from(self, scores: AnswerLogprobs, start: int) -> tuple[Texts, str]:
        """The tokens from the one on in which character ``start`` is, and what it has before that.

        Args:
            scores: of all that follows the reasoning.
            start: counted from its first character that is no white space.
        """
        prefix = self._prefix_text(scores)
        whole = prefix(len(scores.written))
        start += len(whole) - len(whole.lstrip())
        first = next(
            (n for n in range(len(scores.written)) if len(prefix(n + 1)) > start),
            len(scores.written),
        )
        tokens = [
            (self._text(written), [(self._text(token), value) for token, value in candidates])
            for written, candidates in zip(
                scores.written[first:], scores.candidates()[first:], strict=True
            )
        ]
        return tokens, whole[len(prefix(first)) : start]

    def _prefix_text(self, scores: AnswerLogprobs) -> Callable[[int], str]:
        written = scores.written
        if self._tokenizer is None or not scores.has_ids:
            return lambda length: "".join(map(str, written[:length]))
        # Not the joined texts of single tokens: a character may be of several tokens.
        return lambda length: str(self._tokenizer.decode(list(written[:length])))

    def _text(self, token: int | str) -> str:
        if isinstance(token, str):
            return token
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token])
        return self._texts[token]


def label_distribution(
    label: str, labels: Sequence[str], tokens: Texts, before: str
) -> dict[str, float]:
    """Probability of each label where ``label`` was written; see the module.

    >>> tokens = [(" de", [(" de", math.log(0.6)), (" nl", math.log(0.2))])]
    >>> found = label_distribution("de", ["de", "nl", "fr"], tokens, " ")
    >>> {name: round(share, 3) for name, share in found.items()}
    {'de': 0.75, 'nl': 0.25, 'fr': 0.0}

    Args:
        label: that was written.
        labels: all of them.
        tokens: from the one on in which the label begins.
        before: what the first of them has before the label.
    """
    mass = dict.fromkeys(labels, 0.0)
    reached, said = 1.0, ""
    for number, (written, candidates) in enumerate(tokens):
        own = 0.0
        for text, logprob in candidates:
            if text == written:
                own = max(own, math.exp(logprob))
                continue
            piece = text if number else text.removeprefix(before).lstrip()
            fitting = _fitting(said + piece, labels) if piece else []
            for other in fitting:
                mass[other] += reached * math.exp(logprob) / len(fitting)
        said += written if number else written.removeprefix(before).lstrip()
        reached *= own
        if not any(other != label and other.startswith(said) for other in labels):
            break
    mass[label] += reached
    total = sum(mass.values())
    if total <= 0:
        return {other: float(other == label) for other in labels}
    return {other: share / total for other, share in mass.items()}


def _fitting(said: str, labels: Sequence[str]) -> list[str]:
    """The labels that a text begins, or the one that it is, with no letter after it."""
    begun = [label for label in labels if label.startswith(said)]
    if begun:
        return begun
    whole = [label for label in labels if said.startswith(label)]
    longest = max(whole, key=len, default="")
    following = said[len(longest) : len(longest) + 1]
    return [longest] if longest and not (following.isalnum() or following == "_") else []
