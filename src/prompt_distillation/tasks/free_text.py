"""Answers that are texts: what the model wrote is the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks.answer_kind import Answer, AnswerKind, MetricFamily


@dataclass(frozen=True)
class FreeText(AnswerKind):
    """The kind ``text``: everything is the answer, and two texts are equal or they are not."""

    name: str = "text"
    has_right_answers: bool = False
    metrics: MetricFamily = "text"

    def read(self, text: str) -> Answer:
        """Everything is the answer."""
        return Answer(text=text)


def read_free_text(fields: Mapping[str, Any], path: Path) -> FreeText:
    """Check that a task file asks for nothing that texts do not have.

    Raises:
        TaskError: it has labels, a pattern, or votes by field.
    """
    for key in ("labels", "answer_pattern", "votes"):
        if fields.get(key):
            raise TaskError(f"{path}: kind text has no {key}; remove it or set another kind")
    return FreeText()
