"""Held-out accuracy by generation: the student answers, and an answer is right if it is the label.

What the held-out loss cannot show: whether greedy decoding, without the answer's beginning given,
ends in exactly the teacher's text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prompt_distillation.training.encode import IGNORED, EncodedRow

TOKENS_PER_BATCH = 8192
"""Of contexts and answers, padding included: about a training pass, so that long rows do not take
more memory here than there."""


@dataclass(frozen=True, slots=True)
class Question:
    """One held-out row: its context, and the ids of the answer with its end of turn."""

    context: list[int]
    answer: list[int]


def questions(rows: Sequence[EncodedRow], *, limit: int) -> list[Question]:
    """At most ``limit`` rows, evenly spaced over the file, taken apart.

    Evenly, because a file's first rows are often of one kind: the easy ones, or one language.
    """
    step = max(1, len(rows) / limit) if limit else 1
    chosen = [rows[int(i * step)] for i in range(min(limit, len(rows)))]
    return [_question(row) for row in chosen]


def _question(row: EncodedRow) -> Question:
    """The last answer, and all that stands before it, earlier answers included."""
    start = len(row.labels)
    while start and row.labels[start - 1] != IGNORED:
        start -= 1
    return Question(row.input_ids[:start], row.input_ids[start:])


def answer_greedily(model: Any, asked: Sequence[Question], *, pad_id: int) -> list[list[int]]:
    """Greedy answers, each cut after the longest label's length."""
    answers: list[list[int]] = []
    longest = max((len(question.answer) for question in asked), default=0)
    for batch in _batches(asked, longest):
        width = max(len(question.context) for question in batch)
        ids = torch.full((len(batch), width), pad_id, device=model.device)
        mask = torch.zeros_like(ids)
        for row, question in enumerate(batch):
            ids[row, width - len(question.context) :] = torch.tensor(question.context)
            mask[row, width - len(question.context) :] = 1
        with torch.no_grad():
            generated = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False,
                temperature=None, top_p=None, top_k=None, pad_token_id=pad_id, use_cache=True,
            )  # fmt: skip
        answers += generated[:, width:].tolist()
    return answers


def _batches(asked: Sequence[Question], longest: int) -> Iterator[list[Question]]:
    """The questions in order, as many at once as fit with answers of ``longest`` tokens."""
    batch: list[Question] = []
    width = 0
    for question in asked:
        own = len(question.context) + longest
        width = max(width, own)
        if batch and width * (len(batch) + 1) > TOKENS_PER_BATCH:
            yield batch
            batch, width = [], own
        batch.append(question)
    if batch:
        yield batch


def count_right(asked: Sequence[Question], answers: Sequence[Sequence[int]]) -> int:
    """Answers that begin with the label and its end of turn."""
    return sum(
        list(answer[: len(question.answer)]) == question.answer
        for question, answer in zip(asked, answers, strict=True)
    )


def until_end(answer: Sequence[int], end: int) -> list[int]:
    """The answer before its end of turn, which is what a user would read."""
    ids = list(answer)
    return ids[: ids.index(end)] if end in ids else ids
