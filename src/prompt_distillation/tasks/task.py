r"""What is distilled: a prompt, the labels if there are any, and how an answer is read.

A task is a folder, no code: ``task.yaml`` beside ``prompt.md``. For a classification::

    name: language
    kind: classification
    prompt_file: prompt.md
    labels: {ar: Arabic, de: German, ot: anything else}
    answer_pattern: 'Final Answer:\s*(\w+)'

For free text, ``kind: generation`` and neither labels nor pattern: the answer is the text.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from prompt_distillation.errors import TaskError
from prompt_distillation.examples import find_example
from prompt_distillation.yaml_files import read_yaml_mapping

START_OF_THINKING = "<think>"
END_OF_THINKING = "</think>"

TaskKind = Literal["classification", "generation"]


class ChatMessage(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: Literal["system", "user", "assistant"]
    content: str


class RejectReason(StrEnum):
    """Why a completion holds no answer."""

    LENGTH = "cut_by_length"
    NO_END_OF_THINKING = "no_end_of_thinking"
    EMPTY = "empty_answer"
    NO_LABEL = "no_label"
    UNKNOWN_LABEL = "unknown_label"
    LOW_AGREEMENT = "low_agreement"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was read out of one completion: either ``text`` or ``reject_reason`` is set.

    Attributes:
        text: the label, or the generated text.
        reasoning: what stood before the last ``</think>``.
        reject_reason: why there is no answer.
    """

    text: str | None = None
    reasoning: str | None = None
    reject_reason: RejectReason | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prompt to distil and the rule by which answers are read.

    Attributes:
        labels: label -> what it stands for, in the file's order; empty for a generation.
        answer_pattern: a regular expression with one group, the label; its last match counts.
    """

    name: str
    kind: TaskKind
    prompt: str
    labels: Mapping[str, str]
    answer_pattern: re.Pattern[str] | None
    path: Path

    @property
    def prompt_sha256(self) -> str:
        """Hexadecimal SHA-256 of the prompt: what "the same prompt" means in the journal."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    def conversation(
        self, text: str, *, history: tuple[ChatMessage, ...] = (), with_prompt: bool
    ) -> tuple[ChatMessage, ...]:
        """The chat that asks for the answer to ``text``: the teacher's has the prompt as system."""
        turns: tuple[ChatMessage, ...] = (*history, {"role": "user", "content": text})
        if with_prompt:
            return ({"role": "system", "content": self.prompt}, *turns)
        return turns

    def parse(
        self, text: str, *, finish_reason: str, thinking: bool, reasoning: str | None = None
    ) -> Answer:
        """Read the answer out of one completion.

        The answer is what follows the last ``</think>``. Reasoning is never searched for a label.

        Args:
            text: the completion, special tokens that mark a turn's end already gone.
            finish_reason: the engine's word; ``"length"`` means the answer was cut off.
            thinking: whether the model reasons first, so that a text without ``</think>`` is all
                reasoning. A text that opens with ``<think>`` is that in any case; where a server
                delivers ``reasoning`` apart, a text without ``</think>`` is the answer.
            reasoning: the reasoning, where the engine delivers it in a field of its own.
        """
        before, mark, answer = text.rpartition(END_OF_THINKING)
        before = (before if mark else text).strip().removeprefix(START_OF_THINKING).strip()
        if mark:
            reasoning = before if reasoning is None else f"{reasoning}\n{before}".strip()
        elif reasoning is None and (thinking or text.lstrip().startswith(START_OF_THINKING)):
            cut = finish_reason == "length"
            reason = RejectReason.LENGTH if cut else RejectReason.NO_END_OF_THINKING
            return Answer(reasoning=before, reject_reason=reason)
        if finish_reason == "length":
            return Answer(reasoning=reasoning, reject_reason=RejectReason.LENGTH)
        answer = answer.strip()
        if not answer:
            return Answer(reasoning=reasoning, reject_reason=RejectReason.EMPTY)
        if self.kind == "generation":
            return Answer(text=answer, reasoning=reasoning)
        return self._parse_label(answer, reasoning)

    def _parse_label(self, answer: str, reasoning: str | None) -> Answer:
        """A label by the pattern's last match, or an answer that is a label and nothing else."""
        if answer in self.labels:
            return Answer(text=answer, reasoning=reasoning)
        matches = self.answer_pattern.findall(answer) if self.answer_pattern else []
        if not matches:
            return Answer(reasoning=reasoning, reject_reason=RejectReason.NO_LABEL)
        label = matches[-1].strip()
        if label not in self.labels:
            return Answer(reasoning=reasoning, reject_reason=RejectReason.UNKNOWN_LABEL)
        return Answer(text=label, reasoning=reasoning)

    def require_label(self, label: str, *, where: str) -> str:
        """Return ``label`` if the task has it.

        Raises:
            TaskError: it does not; ``where`` says where it was found.
        """
        if self.kind == "classification" and label not in self.labels:
            raise TaskError(
                f"{where}: unknown label {label!r}; the task {self.name!r} has "
                f"{', '.join(self.labels)}"
            )
        return label


def load_task(folder: Path) -> Task:
    """Load ``folder/task.yaml`` and its prompt.

    ``tasks/language`` is found everywhere: it comes with the package.

    Raises:
        TaskError: a file is missing, a key is unknown or missing, the pattern does not compile or
            has not exactly one group, the prompt is empty or not UTF-8, or labels and pattern do
            not fit the kind.
    """
    folder = find_example(folder)
    path = folder / "task.yaml"
    if not path.is_file():
        raise TaskError(f"no task at {folder}: {path} is missing (see tasks/language for one)")
    fields = read_yaml_mapping(path, error=TaskError)
    known = {"name", "kind", "prompt_file", "labels", "answer_pattern"}
    if unknown := sorted(set(fields) - known):
        raise TaskError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    kind = _read_kind(fields.get("kind"), path=path)
    labels = _read_labels(fields, kind=kind, path=path)
    pattern = _read_pattern(fields, kind=kind, path=path)
    return Task(
        name=str(fields.get("name") or folder.name),
        kind=kind,
        prompt=_read_prompt(folder / str(fields.get("prompt_file") or "prompt.md"), path=path),
        labels=labels,
        answer_pattern=pattern,
        path=folder,
    )


def _read_prompt(prompt_path: Path, *, path: Path) -> str:
    if not prompt_path.is_file():
        raise TaskError(f"{path}: the prompt file {prompt_path} is missing")
    try:
        prompt = prompt_path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise TaskError(f"{prompt_path}: not UTF-8 ({where}); convert it first") from error
    if not prompt:
        raise TaskError(f"{prompt_path}: the prompt is empty; there is nothing to distil")
    return prompt


def _read_kind(value: object, *, path: Path) -> TaskKind:
    for kind in get_args(TaskKind):
        if value == kind:
            return cast(TaskKind, kind)
    raise TaskError(f"{path}: kind is {value!r}; it must be classification or generation")


def _read_labels(fields: Mapping[str, Any], *, kind: TaskKind, path: Path) -> dict[str, str]:
    labels = fields.get("labels") or {}
    if isinstance(labels, list):
        labels = {label: label for label in labels}
    if not isinstance(labels, dict) or any(not isinstance(label, str) for label in labels):
        # YAML reads a bare `no` as false: Norwegian's label must be quoted.
        raise TaskError(f"{path}: labels must be a mapping or list of texts (quote 'no', 'yes')")
    if unread := [label for label in labels if not label or label != label.strip()]:
        # Answers are stripped before they are compared: such a label would never be read.
        raise TaskError(f"{path}: the label {unread[0]!r} is empty or has spaces around it")
    if kind == "classification" and len(labels) < 2:
        raise TaskError(f"{path}: a classification needs at least two labels, got {len(labels)}")
    if kind == "generation" and labels:
        raise TaskError(f"{path}: a generation has no labels; remove them or set another kind")
    return {label: str(meaning or label) for label, meaning in labels.items()}


def _read_pattern(
    fields: Mapping[str, Any], *, kind: TaskKind, path: Path
) -> re.Pattern[str] | None:
    source = fields.get("answer_pattern")
    if source is None:
        return None
    if kind == "generation":
        raise TaskError(f"{path}: a generation has no answer_pattern: its answer is the text")
    try:
        pattern = re.compile(str(source))
    except re.error as error:
        raise TaskError(f"{path}: answer_pattern {source!r} does not compile: {error}") from error
    if pattern.groups != 1:
        raise TaskError(
            f"{path}: answer_pattern {source!r} has {pattern.groups} groups; it needs one"
        )
    return pattern
