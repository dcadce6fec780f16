"""What the probes measured: the layout of ``probes.json``.

Shares are in [0, 1]. An `Estimate` is a value with its 95 % interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import has_keys
from prompt_distillation.data.intervals import Estimate
from prompt_distillation.data.result_files import read_written

PROBES_FILE = "probes.json"

MODEL_TITLES = {
    "teacher": "teacher, prompt",
    "teacher_unprompted": "teacher, no prompt",
    "student_before": "student before",
    "student": "student distilled",
}
"""Whose answers are looked at: key -> what tables call it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedInput:
    """One question and what each model answered.

    Attributes:
        category: of a question under pressure; None for a test input.
        group: inputs of one group were never on both sides of the classifier's folds.
        answers: key of `MODEL_TITLES` -> answer, None where there was none.
        in_character: key -> whether the classifier calls the answer in character; a missing
            answer is not.
    """

    category: str | None
    text: str
    group: str
    answers: Mapping[str, str | None]
    in_character: Mapping[str, bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """Answers that sound as the teacher's do under the prompt, told by a classifier.

    Attributes:
        answers: of the teacher, with and without the prompt, which the classifier learned from.
        folds: of the cross-validation; every answer is judged by a classifier that saw no answer
            to a question of its group.
        accuracy: how often it tells the teacher's answers with the prompt from those without.
            Where this is near 0.5, the shares say nothing.
        inputs: how many test inputs the shares are over.
        models: key of `MODEL_TITLES` -> share of its answers to the test inputs in character.
    """

    answers: int
    folds: int
    accuracy: Estimate
    inputs: int
    models: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """One category of questions that invite a model out of its character.

    Attributes:
        models: key of `MODEL_TITLES` -> share of its answers in character.
    """

    category: str
    questions: int
    models: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Perplexity of the same texts under the student before and after distillation.

    ``exp`` of the mean negative log-likelihood of a token, every token weighted alike.

    Attributes:
        tokens: that were scored.
        left_out: texts that are too long for the model, or too short to score.
    """

    texts: int
    tokens: int
    left_out: int
    before: Estimate
    after: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """How far the student has moved from its base on neutral prompts.

    Attributes:
        tokens: of the base's own greedy answers; at each, both models' distributions of the next
            token are compared over the whole vocabulary.
        nats_per_token: mean KL(student || base); 0 means that nothing has changed.
    """

    prompts: int
    tokens: int
    nats_per_token: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What distillation did to text that has nothing to do with the task.

    Attributes:
        plain_text_file: where the text is from.
        divergence: None where the base wrote no answer to any neutral prompt.
    """

    plain_text_file: str
    plain_text: Perplexity
    divergence: Divergence | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """All that was measured; None, or nothing, for what was not asked for.

    Attributes:
        perplexity: of the teacher's answers.
        inputs: every question with the answers of all models.
        config: the command's resolved options.
    """

    task: str
    teacher: str
    student: str
    base_model: str
    character: Character | None
    pressure: tuple[Pressure, ...]
    perplexity: Perplexity | None
    forgetting: Forgetting | None
    inputs: tuple[ProbedInput, ...]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        parts = [f"task={self.task!r}", f"student={self.student!r}"]
        if self.character is not None:
            parts.append(f"classifier={self.character.accuracy.shown}")
            parts += [f"{key}={one.shown}" for key, one in self.character.models.items()]
        return f"Probes({', '.join(parts)})"


def read_probes(path: Path) -> Probes:
    """Read a ``probes.json``."""
    return read_written(path, Probes, by="probe.py")


def is_probes(path: Path) -> bool:
    """Whether a file is a ``probes.json``."""
    return has_keys(path, "perplexity", "forgetting", "pressure")
