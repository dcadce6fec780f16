r"""Answers that are one of a few labels, found by a pattern in what the model wrote.

The pattern is a regular expression with one group where the label stands, such as
``Final Answer:\s*(\w+)``; its last match counts. Labels may hold more than the group allows for
(``zh-cn``, ``not spam``): where a label is in the group's place, the longest one is taken.

Patterns are matched by RE2, whose time grows with the text's length only: no answer can make one
search forever. RE2 has no lookahead and no backreferences.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks.answer_kind import (
    Answer,
    MetricFamily,
    RejectReason,
    VoteCount,
    count_whole_answers,
)
from prompt_distillation.tasks.patterns import PatternError, compile_pattern

PROMPTED_MAX_TOKENS = 512
STUDENT_MIN_MAX_TOKENS = 16

# In RE2 these mean ASCII only; a label may be a word of any script.
_UNICODE_CLASSES = {"w": r"\pL\pM\pN_", "s": r"\s\x{85}\p{Z}", "d": r"\p{Nd}"}


@dataclass(frozen=True)
class LabelPattern:
    """Finds a label in a text."""

    source: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        groups = self._any.groups
        if groups != 1:
            raise PatternError(f"has {groups} groups; it needs one, where the label stands")
        _ = self._labelled

    @functools.cached_property
    def _parts(self) -> tuple[str, str, str]:
        """The pattern before its group, the group, and after it, for RE2."""
        return _split_at_group(self.source)

    @functools.cached_property
    def _any(self) -> "re2._Regexp":
        return compile_pattern("".join(self._parts))

    @functools.cached_property
    def _labelled(self) -> "re2._Regexp":
        """The pattern with the labels in its group's place, the longest first."""
        before, _, after = self._parts
        longest_first = sorted(self.labels, key=len, reverse=True)
        return compile_pattern(f"{before}({'|'.join(map(re2.escape, longest_first))}){after}")

    @functools.cached_property
    def _connectors(self) -> frozenset[str]:
        """What joins words inside labels: `zh-tw` is then no `zh`."""
        return frozenset(
            mark for mark in "".join(self.labels) if not _is_word(mark) and not mark.isspace()
        )

    def find(self, text: str) -> Answer:
        """The label in the last match."""
        written, labelled = _last(self._any, text), _last(self._labelled, text)
        if written is None and labelled is None:
            return Answer(reject_reason=RejectReason.NO_LABEL, detail="no match of answer_pattern")
        found = None
        end = written.start(1) + len(written[1].rstrip()) if written else 0
        if labelled and (
            written is None
            or labelled.start() > written.start()
            or (labelled.start() == written.start() and labelled.end(1) >= end)
        ):
            found, end = labelled[1], labelled.end(1)
        elif written:
            found = written[1].strip()
        start = end - len(found or "")
        if found not in self.labels or not self._ends_at(text, end):
            return Answer(
                reject_reason=RejectReason.UNKNOWN_LABEL, detail=f"{found!r} is not a label"
            )
        return Answer(text=found, span=(start, end))

    def frames(self, prompt: str) -> set[tuple[str, str]]:
        """What is before and after the labels, wherever the pattern matches a text."""
        return {
            (prompt[match.start() : match.start(1)], prompt[match.end(1) : match.end()])
            for pattern in (self._any, self._labelled)
            for match in pattern.finditer(prompt)
        }

    def _ends_at(self, text: str, end: int) -> bool:
        """Whether a word ends there, so that what stands before is all of it."""
        following, after = text[end : end + 1], text[end + 1 : end + 2]
        if _is_word(following):
            return False
        return following not in self._connectors or not _is_word(after)


@dataclass(frozen=True)
class Classification:
    """The kind ``classification``, see `AnswerKind`.

    Attributes:
        labels: label -> what it stands for, in the file's order.
        pattern: how a label is found; None: an answer is a label and nothing else.
    """

    labels: Mapping[str, str]
    pattern: LabelPattern | None = None
    name: str = "classification"
    json_schema: str | None = None
    has_right_answers: bool = True
    metrics: MetricFamily = "labels"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The labels and the pattern."""
        source = self.pattern.source if self.pattern else None
        return {"labels": list(self.labels), "answer_pattern": source}

    def read(self, text: str) -> Answer:
        """A label by the pattern's last match, or an answer that is a label and nothing else."""
        if text in self.labels or self.pattern is None:
            return self._accept(text, RejectReason.NO_LABEL)
        return _find(self.pattern, text)

    def accept(self, text: str) -> Answer:
        """A label, exactly."""
        return self._accept(text, RejectReason.UNKNOWN_LABEL)

    def _accept(self, text: str, reason: RejectReason) -> Answer:
        if text in self.labels:
            return Answer(text=text)
        allowed = ", ".join(self.labels)
        return Answer(
            reject_reason=reason, detail=f"unknown label {text!r}; the labels are {allowed}"
        )

    def count_votes(self, answers: Sequence[str]) -> VoteCount:
        """A vote for each label."""
        return count_whole_answers(answers)

    def written_as_in(self, prompt: str) -> Iterable[tuple[str, str]]:
        """Each label alone, and in place of each one that the pattern finds in the prompt."""
        frames = {("", "")} | (self.pattern.frames(prompt) if self.pattern else set())
        for label in self.labels:
            for before, after in sorted(frames):
                yield label, f"{before}{label}{after}"

    def max_tokens(self, *, with_prompt: bool) -> int:
        """Room for a sentence and the answer line under a prompt, for a bare label without.

        A label has at most as many tokens as bytes; the rest is for the end of the turn. A student
        that goes on beyond is cut, and has no answer.
        """
        if with_prompt:
            return PROMPTED_MAX_TOKENS
        longest = max(len(label.encode()) for label in self.labels)
        return max(STUDENT_MIN_MAX_TOKENS, longest + 8)


def read_classification(fields: Mapping[str, Any], path: Path) -> Classification:
    """Read the keys ``labels`` and ``answer_pattern`` of a task file.

    Raises:
        TaskError: the labels cannot be told apart, or the pattern cannot be used.
    """
    if fields.get("votes"):
        raise TaskError(f"{path}: kind classification has no votes; that key is for json")
    labels = _read_labels(fields, path=path)
    return Classification(labels, _read_pattern(fields, labels, path=path))


def _read_labels(fields: Mapping[str, Any], *, path: Path) -> dict[str, str]:
    labels = fields.get("labels") or {}
    if not isinstance(labels, dict | list) or any(not isinstance(label, str) for label in labels):
        # YAML reads a bare `no` as false: Norwegian's label must be quoted.
        raise TaskError(f"{path}: labels must be a mapping or list of texts (quote 'no', 'yes')")
    if isinstance(labels, list):
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise TaskError(f"{path}: the label {twice[0]!r} appears twice; remove one")
        labels = {label: label for label in labels}
    for label, meaning in labels.items():
        if not isinstance(meaning or "", str | int | float):
            raise TaskError(f"{path}: the label {label!r} stands for {meaning!r}; write a text")
    if unread := [label for label in labels if not label or label != label.strip()]:
        # Answers are stripped before they are compared: such a label would never be read.
        raise TaskError(f"{path}: the label {unread[0]!r} is empty or has spaces around it")
    if len(labels) < 2:
        raise TaskError(f"{path}: a classification needs at least two labels, got {len(labels)}")
    return {label: str(meaning or label) for label, meaning in labels.items()}


def _read_pattern(
    fields: Mapping[str, Any], labels: Mapping[str, str], *, path: Path
) -> LabelPattern | None:
    source = fields.get("answer_pattern")
    if source is None:
        return None
    try:
        return LabelPattern(str(source), tuple(labels))
    except PatternError as error:
        raise TaskError(f"{path}: answer_pattern {source!r} {error}") from error


@functools.lru_cache(maxsize=4096)  # most answers are the same few lines
def _find(pattern: LabelPattern, text: str) -> Answer:
    return pattern.find(text)


def _is_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character or " ")[0] in "LMN"


def _last(pattern: "re2._Regexp", text: str) -> "re2._Match | None":
    match = None
    for match in pattern.finditer(text):  # noqa: B007 - the last one counts
        pass
    return match


def _split_at_group(source: str) -> tuple[str, str, str]:
    """Cut a pattern around its first group that captures, its classes made to mean Unicode."""
    pieces: list[str] = []
    open_groups: list[int | None] = []  # where each began, None for one that does not capture
    span: tuple[int, int] | None = None
    in_class = False
    position = 0
    while position < len(source):
        length = 1
        mark = source[position]
        if mark == "\\":
            length = 2
        elif in_class:
            in_class = mark != "]"
        elif mark == "[":
            # A bracket that comes first in a class does not end it.
            length = next(n for n in (3, 2, 1) if source[position:][:n] in ("[^]", "[]", "[^", "["))
            in_class = True
        elif mark == "(":
            captures = not source.startswith("(?", position) or source.startswith(
                ("(?P<", "(?<"), position
            )
            open_groups.append(len(pieces) if captures else None)
        elif mark == ")" and open_groups:
            began = open_groups.pop()
            if began is not None and (span is None or began < span[0]):
                span = (began, len(pieces) + 1)
        piece = source[position : position + length]
        pieces.append(_in_unicode(piece, in_class=in_class))
        position += length
    start, end = span or (len(pieces), len(pieces))
    return "".join(pieces[:start]), "".join(pieces[start:end]), "".join(pieces[end:])


def _in_unicode(piece: str, *, in_class: bool) -> str:
    if not piece.startswith("\\"):
        return piece
    members = _UNICODE_CLASSES.get(piece[1:].lower())
    if members is None or (in_class and piece[1].isupper()):
        return piece
    if in_class:
        return members
    return f"[^{members}]" if piece[1].isupper() else f"[{members}]"
