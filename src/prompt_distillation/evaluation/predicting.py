"""Ask a model for its answers: many in flight, handed over in the order of the inputs."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from prompt_distillation.data.results import Prediction
from prompt_distillation.engines import (
    Completion,
    Engine,
    Request,
    RequestFailedError,
    Sampling,
    stream,
)
from prompt_distillation.engines.concurrency import Completer
from prompt_distillation.engines.scoring import LabelScorer
from prompt_distillation.evaluation.selection import TestItem
from prompt_distillation.tasks import Answer, RejectReason, Task

Outcome = TypeVar("Outcome")

THINKING_MAX_TOKENS = 4096

NO_THINKING = "\n</think>\n\n"
"""A prefill that makes a model answer at once whose template opens the thinking: what Qwen3's own
templates write where thinking is switched off."""


def default_max_tokens(task: Task, *, with_prompt: bool, thinking: bool) -> int:
    """Room for an answer, in tokens.

    A thinking model needs room to think; a prompted one may say a sentence before its answer
    line. A student answers with a bare label, which has at most as many tokens as bytes; the
    rest is for the end of its turn, and a model that rambles beyond is cut, and has no answer.
    """
    if thinking:
        return THINKING_MAX_TOKENS
    return task.answers.max_tokens(with_prompt=with_prompt)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked.

    Attributes:
        with_prompt: whether the task's prompt stands before each input.
        thinking: whether the model reasons first; the answer follows ``</think>``.
        scored: whether the labels' probabilities are taken instead of what the model writes.
        prefill: text that the answer begins with, see `NO_THINKING`.
    """

    with_prompt: bool
    thinking: bool
    sampling: Sampling
    scored: bool = False
    prefill: str = ""


async def predict(
    engine: Engine, items: Sequence[TestItem], *, task: Task, asking: Asking
) -> AsyncGenerator[Prediction, None]:
    """Yield a prediction per item, in the items' order, while the engine answers in its own.

    A request that failed becomes a prediction without an answer.

    Raises:
        EngineError: the engine is gone.
    """
    async for item, outcome in _in_order(engine, items, task=task, asking=asking):
        yield judge(item, outcome, task=task, thinking=asking.thinking)


async def predict_by_score(
    scorer: LabelScorer, items: Sequence[TestItem], *, task: Task, asking: Asking
) -> AsyncGenerator[Prediction, None]:
    """Yield a prediction per item, in order: the label that is most likely, nothing written.

    Raises:
        EngineError: the engine is gone.
    """
    async for item, scores in _in_order(scorer, items, task=task, asking=asking):
        if isinstance(scores, RequestFailedError):
            yield judge(item, scores, task=task, thinking=False)
            continue
        best = max(scores.probabilities, key=lambda label: scores.probabilities[label])
        yield replace(
            prediction_of(item, Answer(text=best), task=task),
            label_probabilities=scores.probabilities,
            prompt_tokens=scores.prompt_tokens,
            completion_tokens=0,
            seconds=scores.seconds,
        )


async def _in_order(
    engine: Completer[Outcome], items: Sequence[TestItem], *, task: Task, asking: Asking
) -> AsyncIterator[tuple[TestItem, Outcome | RequestFailedError]]:
    """Ask everything at once; hand over each item with its outcome, in the items' order."""
    requests = enumerate(request_for(item, task=task, asking=asking) for item in items)
    waiting: dict[int, Outcome | RequestFailedError] = {}
    following = 0
    async for position, outcome in stream(engine, requests):
        waiting[position] = outcome
        while following in waiting:
            yield items[following], waiting.pop(following)
            following += 1


def request_for(item: TestItem, *, task: Task, asking: Asking) -> Request:
    """What the model is asked for an input."""
    return Request(
        messages=task.conversation(
            item.input.text, history=item.input.history, with_prompt=asking.with_prompt
        ),
        sampling=asking.sampling,
        prefill=asking.prefill,
    )


def judge(
    item: TestItem,
    outcome: Completion | RequestFailedError,
    *,
    task: Task,
    thinking: bool,
) -> Prediction:
    """Read the answer out of a completion and hold it against the truth."""
    if isinstance(outcome, RequestFailedError):
        failed = Answer(reject_reason=RejectReason.ENGINE_ERROR)
        return prediction_of(item, failed, task=task, raw_output=str(outcome))
    answer = task.parse(
        outcome.text,
        finish_reason=outcome.finish_reason,
        thinking=thinking,
        reasoning=outcome.reasoning,
    )
    return prediction_of(item, answer, task=task, raw_output=outcome.text, completion=outcome)


def prediction_of(
    item: TestItem,
    answer: Answer,
    *,
    task: Task,
    raw_output: str | None = None,
    completion: Completion | None = None,
) -> Prediction:
    """Join an answer to its input.

    Generated text is neither right nor wrong: two good answers may share no word.
    """
    judged = item.truth is not None and task.answers.has_right_answers
    return Prediction(
        index=item.input.index,
        text=item.input.text,
        group=item.input.group,
        predicted=answer.text,
        ground_truth=item.truth,
        correct=answer.text == item.truth if judged else None,
        gold=item.input.gold,
        teacher=item.teacher.answer if item.teacher else None,
        teacher_asked=item.teacher is not None,
        trained_on=item.trained_on,
        reject_reason=answer.reject_reason,
        raw_output=raw_output,
        finish_reason=completion.finish_reason if completion else None,
        prompt_tokens=completion.prompt_tokens if completion else None,
        completion_tokens=completion.completion_tokens if completion else None,
        cached_tokens=completion.cached_tokens if completion else None,
        seconds=completion.seconds if completion else None,
        first_token_seconds=completion.first_token_seconds if completion else None,
    )
