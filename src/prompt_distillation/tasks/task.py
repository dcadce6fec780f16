r"""What is distilled: the prompt, and what kind of answer it asks for.

A task is a folder, no code: ``task.yaml`` beside ``prompt.md``. For a classification::

    name: language
    kind: classification
    prompt_file: prompt.md
    labels: {ar: Arabic, de: German, ot: anything else}
    answer_pattern: 'Final Answer:\s*(\w+)'

For free text, ``kind: text`` and neither labels nor pattern: the answer is the text. For JSON,
``kind: json`` and a ``schema.json`` beside it; ``votes: field`` lets votes decide each field.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from prompt_distillation.errors import TaskError
from prompt_distillation.examples import find_example
from prompt_distillation.tasks.answer_extraction import extract_answer
from prompt_distillation.tasks.answer_kind import Answer, AnswerKind
from prompt_distillation.tasks.classification import read_classification
from prompt_distillation.tasks.free_text import read_free_text
from prompt_distillation.tasks.json_object import read_json_kind
from prompt_distillation.yaml_files import read_yaml_mapping

KINDS: Mapping[str, Callable[[Mapping[str, Any], Path], AnswerKind]] = {
    "classification": read_classification,
    "text": read_free_text,
    "json": read_json_kind,
}
"""What ``task.yaml`` calls a kind -> how its own keys are read, given all keys and the file."""

SYNONYMS = {"generation": "text"}
"""Names of kinds in older task files."""


class ChatMessage(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prompt to distil and the kind of its answers.

    Attributes:
        prompt: the teacher's system message.
        answers: how answers are read, constrained and measured.
        path: the task's folder.
    """

    name: str
    prompt: str
    answers: AnswerKind
    path: Path

    @property
    def kind(self) -> str:
        """The name of the kind of its answers."""
        return self.answers.name

    @property
    def labels(self) -> Mapping[str, str]:
        """Label -> what it stands for, in the file's order; empty where answers are not labels."""
        return self.answers.labels

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
        """Read the answer out of one completion: cut it out, then read it by the kind's rule."""
        cut = extract_answer(
            text, finish_reason=finish_reason, thinking=thinking, reasoning=reasoning
        )
        if cut.text is None:
            return cut
        return replace(self.answers.read(cut.text), reasoning=cut.reasoning)

    def require_answer(self, text: str, *, where: str) -> str:
        """The canonical form of an answer that stands alone, such as a gold label.

        Raises:
            TaskError: it is not an answer of this task; ``where`` says where it was found.
        """
        answer = self.answers.accept(text)
        if answer.text is None:
            raise TaskError(f"{where}: {answer.detail} (task {self.name!r})")
        return answer.text


def task_files(folder: Path) -> list[Path]:
    """The files that a task is read from, for checks of what a command may write.

    Raises:
        TaskError: ``task.yaml`` is not valid YAML.
    """
    folder = find_example(folder)
    path = folder / "task.yaml"
    fields = read_yaml_mapping(path, error=TaskError) if path.is_file() else {}
    names = (fields.get("prompt_file") or "prompt.md", fields.get("schema_file") or "schema.json")
    return [path, *(folder / str(name) for name in names)]


def load_task(folder: Path) -> Task:
    """Load ``folder/task.yaml`` and its prompt.

    ``tasks/language`` is found everywhere: it comes with the package.

    Raises:
        TaskError: a file is missing, a key is unknown or missing, the prompt is empty or not UTF-8,
            labels and pattern do not fit the kind, or a label that is written as the prompt asks
            would not be read as itself.
    """
    folder = find_example(folder)
    path = folder / "task.yaml"
    if not path.is_file():
        raise TaskError(f"no task at {folder}: {path} is missing (see tasks/language for one)")
    fields = read_yaml_mapping(path, error=TaskError)
    known = {"name", "kind", "prompt_file", "labels", "answer_pattern", "schema_file", "votes"}
    if unknown := sorted(set(fields) - known):
        raise TaskError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for key in ("name", "prompt_file"):
        if not isinstance(fields.get(key) or "", str | int | float):
            raise TaskError(f"{path}: {key} is {fields[key]!r}; it must be a text")
    task = Task(
        name=str(fields.get("name") or folder.name),
        prompt=_read_prompt(folder / str(fields.get("prompt_file") or "prompt.md"), path=path),
        answers=_read_kind(fields, path=path),
        path=folder,
    )
    _check_readable(task, path=path)
    return task


def _check_readable(task: Task, *, path: Path) -> None:
    """Raise `TaskError` for a label that, written as the prompt asks, is not read as itself."""
    for label, written in task.answers.written_as_in(task.prompt):
        answer = task.parse(written, finish_reason="stop", thinking=False)
        if answer.text != label:
            found = f"read as {answer.text!r}" if answer.text else "not read at all"
            raise TaskError(
                f"{path}: the label {label!r}, written as {written!r}, would be {found}; change "
                "answer_pattern so that its group holds the whole label, or change the label"
            )


def _read_prompt(prompt_path: Path, *, path: Path) -> str:
    if not prompt_path.is_file():
        raise TaskError(f"{path}: the prompt file {prompt_path} is missing; write it")
    try:
        prompt = prompt_path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise TaskError(f"{prompt_path}: not UTF-8 ({where}); convert it first") from error
    if not prompt:
        raise TaskError(f"{prompt_path}: the prompt is empty; there is nothing to distil")
    return prompt


def _read_kind(fields: Mapping[str, Any], *, path: Path) -> AnswerKind:
    value = fields.get("kind")
    kind = SYNONYMS.get(str(value), str(value))
    if kind not in KINDS:
        raise TaskError(f"{path}: kind is {value!r}; it must be one of {', '.join(KINDS)}")
    return KINDS[kind](fields, path)
