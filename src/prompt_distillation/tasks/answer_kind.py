"""What a kind of answer decides. Each kind is one module; nothing else asks which kind it is.

To add one: write a class that inherits from `AnswerKind` and a function that
reads its keys of ``task.yaml``, and list that in `prompt_distillation.tasks.task.KINDS`. Labelling,
evaluation and reports follow its members.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

MetricFamily = Literal["labels", "text", "fields"]
"""Which metrics apply: of labels (confusion, F1 per label), of texts (BLEU, chrF, ROUGE), or of the
fields of objects (precision, recall, F1 per field)."""


MAX_TOKENS = 1024
"""Room for an answer of about 700 words, or a JSON object of about 3,000 characters."""


class RejectReason(StrEnum):
    """Why a completion holds no answer."""

    LENGTH = "cut_by_length"
    NO_END_OF_THINKING = "no_end_of_thinking"
    EMPTY = "empty_answer"
    NO_LABEL = "no_label"
    UNKNOWN_LABEL = "unknown_label"
    NO_JSON = "no_json"
    SCHEMA = "against_schema"
    LOW_AGREEMENT = "low_agreement"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was read out of one completion: either ``text`` or ``reject_reason`` is set.

    Attributes:
        text: the answer in its canonical form, which is also what a student is trained to write.
            Two answers are equal, and one vote, if their texts are.
        reasoning: what stood before the last ``</think>``.
        detail: the reason in words, with what would be allowed.
        span: where the answer stands in what was read, from and to; None where it is all of it,
            or rewritten.
    """

    text: str | None = None
    reasoning: str | None = None
    reject_reason: RejectReason | None = None
    detail: str | None = None
    span: tuple[int, int] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCount:
    """What several answers to one input come to.

    Attributes:
        winner: the answer that is ahead, in its canonical form.
        tallies: for each thing that is voted on by itself, its values and their votes. There is
            one thing, the answer, unless a kind votes on its parts.
    """

    winner: str
    tallies: tuple[Mapping[str | None, int], ...]


def count_whole_answers(answers: Sequence[str]) -> VoteCount:
    """Count answers as wholes; of those with equally many votes, the first one is ahead.

    >>> count_whole_answers(["de", "fr", "fr"]).winner
    'fr'
    """
    counts = Counter[str | None](answers)
    winner = max(counts, key=lambda answer: counts[answer])
    assert winner is not None, "there is at least one answer, and no answer is None"
    return VoteCount(winner=winner, tallies=(counts,))


class AnswerKind(Protocol):
    """How the answers of a task are read, constrained and measured.

    A class that inherits from it gets the defaults below: answers without a list of labels, each
    read like a completion, counted as wholes, and of at most `MAX_TOKENS` tokens.
    """

    @property
    def name(self) -> str:
        """What ``task.yaml`` calls it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The only answers there are, each with its meaning; empty where there is no list."""
        return {}

    @property
    def json_schema(self) -> str | None:
        """The JSON Schema of the answers, for engines that can decode by it."""
        return None

    @property
    def has_right_answers(self) -> bool:
        """Whether an answer is right if it equals the truth. Good texts may share no word."""

    @property
    def metrics(self) -> MetricFamily:
        """Which metrics apply."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides how an answer is read, as JSON can hold it, for manifests."""
        return {"labels": [], "answer_pattern": None}

    def read(self, text: str) -> Answer:
        """Read the answer out of what a model wrote after its reasoning.

        Args:
            text: not empty, without white space around it.
        """

    def accept(self, text: str) -> Answer:
        """Read an answer that stands alone: a gold label, a correction, a saved prediction."""
        return self.read(text)

    def count_votes(self, answers: Sequence[str]) -> VoteCount:
        """What several answers to one input come to.

        Args:
            answers: in canonical form, at least one, in the order of the votes.
        """
        return count_whole_answers(answers)

    def written_as_in(self, prompt: str) -> Iterable[tuple[str, str]]:
        """Answers, each as the prompt asks to write it: `read` must find the answer in the text.

        This is checked when a task is loaded, before anything is paid for.
        """
        return ()

    def max_tokens(self, *, with_prompt: bool) -> int:
        """Room for an answer without reasoning, in tokens.

        Args:
            with_prompt: whether the model sees the task's prompt, and so may say more than a
                student that was trained on bare answers.
        """
        return MAX_TOKENS
