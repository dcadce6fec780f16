"""Answers that are texts: what the model wrote is the answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks.answer_kind import (
    Answer,
    MetricFamily,
    VoteCount,
    count_whole_answers,
)

MAX_TOKENS = 1024


@dataclass(frozen=True)
class FreeText:
    """The kind ``text``: no labels and no pattern, see `AnswerKind`."""

    name: str = "text"
    json_schema: str | None = None
    has_right_answers: bool = False
    metrics: MetricFamily = "text"

    @property
    def labels(self) -> Mapping[str, str]:
        """There is no list of texts."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Nothing can be set."""
        return {"labels": [], "answer_pattern": None}

    def read(self, text: str) -> Answer:
        """Everything is the answer."""
        return Answer(text=text)

    def accept(self, text: str) -> Answer:
        """Any text is one."""
        return Answer(text=text)

    def count_votes(self, answers: Sequence[str]) -> VoteCount:
        """Texts that are equal character by character are one."""
        return count_whole_answers(answers)

    def written_as_in(self, prompt: str) -> Iterable[tuple[str, str]]:
        """Nothing to prove: every text is read as itself."""
        return ()

    def max_tokens(self, *, with_prompt: bool) -> int:
        """Room for a text of about 700 words."""
        return MAX_TOKENS


def read_free_text(fields: Mapping[str, Any], path: Path) -> FreeText:
    """Check that a task file asks for nothing that texts do not have."""
    for key in ("labels", "answer_pattern", "votes"):
        if fields.get(key):
            raise TaskError(f"{path}: kind text has no {key}; remove it or set another kind")
    return FreeText()
