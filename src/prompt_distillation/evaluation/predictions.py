"""Answers to the inputs: from a model, many in flight, or from a file."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.files import read_json, read_jsonl, read_lines
from prompt_distillation.data.results import Prediction
from prompt_distillation.data.splits import input_key
from prompt_distillation.data.text import encodable
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
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.selection import TestItem, read_teacher_answers
from prompt_distillation.tasks import Answer, RejectReason, Task

Outcome = TypeVar("Outcome")

THINKING_MAX_TOKENS = 4096

NO_THINKING = "\n</think>\n\n"
"""A prefill that makes a model answer at once whose template opens the thinking: what Qwen3's own
templates write where thinking is switched off."""

RECORDS_SUFFIX = ".records.jsonl"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked."""

    with_prompt: bool
    thinking: bool
    sampling: Sampling
    prefill: str = ""


def asking_of(config: EvaluateConfig, task: Task) -> Asking:
    """How the settings of an evaluation ask a model."""
    sampling, is_constrained = config.sampling, config.decoding == "constrained"
    room = (
        THINKING_MAX_TOKENS
        if config.thinking
        else task.answers.max_tokens(with_prompt=config.with_prompt)
    )
    room = sampling.max_tokens or room
    drawn = Sampling.of(sampling, max_tokens=room, thinking=config.thinking)
    return Asking(
        with_prompt=config.with_prompt,
        thinking=config.thinking,
        prefill=sampling.prefill or "",
        sampling=drawn.constrained_to(task.answers) if is_constrained else drawn,
    )


async def predict(
    engine: Engine, items: Sequence[TestItem], *, task: Task, asking: Asking
) -> AsyncGenerator[Prediction, None]:
    """Yield a prediction per item, in the items' order, while the engine answers in its own.

    A request that failed becomes a prediction without an answer.
    """
    async for item, outcome in _in_order(engine, items, task=task, asking=asking):
        if isinstance(outcome, RequestFailedError):
            yield _failed(item, outcome, task=task)
            continue
        answer = task.parse(
            outcome.text,
            finish_reason=outcome.finish_reason,
            thinking=asking.thinking,
            reasoning=outcome.reasoning,
        )
        yield prediction_of(item, answer, task=task, raw_output=outcome.text, completion=outcome)


async def predict_by_score(
    scorer: LabelScorer, items: Sequence[TestItem], *, task: Task, asking: Asking
) -> AsyncGenerator[Prediction, None]:
    """Yield a prediction per item, in order: the label that is most likely, nothing written."""
    async for item, scores in _in_order(scorer, items, task=task, asking=asking):
        if isinstance(scores, RequestFailedError):
            yield _failed(item, scores, task=task)
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


def _failed(item: TestItem, error: RequestFailedError, *, task: Task) -> Prediction:
    answer = Answer(reject_reason=RejectReason.ENGINE_ERROR)
    return prediction_of(item, answer, task=task, raw_output=str(error))


def prediction_of(
    item: TestItem,
    answer: Answer,
    *,
    task: Task,
    raw_output: str | None = None,
    completion: Completion | None = None,
) -> Prediction:
    """Join an answer to its input; text that no file can hold is made encodable."""
    predicted = None if answer.text is None else encodable(answer.text)[0]
    judged = item.truth is not None and task.answers.has_right_answers
    return Prediction(
        index=item.input.index,
        text=item.input.text,
        group=item.input.group,
        predicted=predicted,
        ground_truth=item.truth,
        correct=predicted == item.truth if judged else None,
        gold=item.input.gold,
        teacher=item.teacher.answer if item.teacher else None,
        teacher_asked=item.teacher is not None,
        trained_on=item.trained_on,
        reject_reason=answer.reject_reason,
        raw_output=None if raw_output is None else encodable(raw_output)[0],
        finish_reason=completion.finish_reason if completion else None,
        prompt_tokens=completion.prompt_tokens if completion else None,
        completion_tokens=completion.completion_tokens if completion else None,
        cached_tokens=completion.cached_tokens if completion else None,
        seconds=completion.seconds if completion else None,
        first_token_seconds=completion.first_token_seconds if completion else None,
        mean_logprob=completion.logprobs.mean_logprob()
        if completion and completion.logprobs
        else None,
        history=item.input.history,
    )


def replay(path: Path, items: Sequence[TestItem], *, task: Task) -> Iterator[Prediction]:
    """Yield a prediction per item from a file: to score again, or what another program predicted.

    Args:
        path: ``.txt`` with a label a line (an empty line is no answer), ``.jsonl`` with
            ``predicted`` (a label, or null), the ``.json`` of an earlier evaluation, each with one
            prediction per input in the same order; or a dataset's ``.records.jsonl``, whose
            teacher answers are found by the input.
        items: the inputs that are evaluated.
        task: by whose labels a prediction counts as an answer.

    Raises:
        InputError: predictions are missing or too many, a row without ``predicted``, or a row
            whose ``text`` is not that of the input in its place.
    """
    if path.name.endswith(RECORDS_SUFFIX):
        yield from _replay_records(path, items, task=task)
        return
    rows = _read_rows(path)
    if len(rows) != len(items):
        raise InputError(
            f"{path} has {len(rows)} predictions for {len(items)} inputs; it needs one each, in "
            "the order of the inputs that are evaluated (see --split, --max_samples)"
        )
    for number, (row, item) in enumerate(zip(rows, items, strict=True), start=1):
        where = f"{path}, prediction {number}"
        if "text" in row and encodable(str(row["text"]))[0] != item.input.text:
            raise InputError(
                f"{where}: its text is not that of input {item.input.index + 1}; "
                "pass the inputs that it was made from"
            )
        yield prediction_of(item, _answer(row, task, where=where), task=task)


def _replay_records(path: Path, items: Sequence[TestItem], *, task: Task) -> Iterator[Prediction]:
    """The teacher's answers as labelling recorded them, with their tokens and seconds."""
    records = read_teacher_answers(path)
    for item in items:
        record = records.get(input_key(item.input.text, item.input.history))
        if record is None:
            raise InputError(
                f"{path} has no record of input {item.input.index + 1}: the teacher was not asked; "
                "evaluate the teacher itself instead"
            )
        answer = (
            Answer(reject_reason=RejectReason.EMPTY)
            if record.answer is None
            else task.answers.accept(record.answer)
        )
        made = prediction_of(item, answer, task=task, raw_output=record.raw_output)
        yield replace(
            made,
            reject_reason=record.reject_reason if record.answer is None else made.reject_reason,
            finish_reason=record.finish_reason,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            seconds=record.seconds,
        )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    match path.suffix.lower():
        case ".jsonl":
            return [row for _, row in read_jsonl(path)]
        case ".json":
            rows = read_json(path).get("predictions")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise InputError(f"{path}: expected a list of objects under 'predictions'")
            return rows
    return [{"predicted": line.strip() or None} for _, line in read_lines(path)]


def _answer(row: dict[str, Any], task: Task, *, where: str) -> Answer:
    if "predicted" not in row:
        raise InputError(f"{where}: no field 'predicted' (a label, or null for no answer)")
    predicted = row["predicted"]
    if predicted is None:
        return Answer(reject_reason=RejectReason.EMPTY)
    if not isinstance(predicted, str):
        raise InputError(f"{where}: 'predicted' is {predicted!r}; expected an answer or null")
    return task.answers.accept(predicted)
