"""How right JSON answers are, leaf by leaf: precision, recall and F1, over all and per field.

A leaf is a value that is neither an object nor a list, and not null; its field is its path, with
``[]`` for the place in a list. Elements of lists are paired so that most leaves agree, in whatever
order they stand. Texts are compared without case and white space, and 1.0 is 1.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prompt_distillation.data.intervals import bootstrap
from prompt_distillation.data.results import (
    ErrorExample,
    FieldResult,
    FieldScores,
    Prediction,
)
from prompt_distillation.data.splits import normalise

ERROR_EXAMPLES = 3

Pair = tuple[str, Any, Any]
"""A field, its value in the truth and in the answer; None where one has none."""


@dataclass(slots=True)
class _Tally:
    correct: int = 0
    given: int = 0
    wanted: int = 0
    invented: int = 0
    examples: list[ErrorExample] = field(default_factory=list)

    def add(self, truth: Any, answer: Any) -> bool:
        """Count a pair; whether it is right."""
        is_right = truth is not None and _same(truth, answer)
        self.correct += is_right
        self.given += answer is not None
        self.wanted += truth is not None
        self.invented += truth is None and answer is not None
        return is_right

    @property
    def shares(self) -> tuple[float, float, float]:
        """Precision, recall and F1; 0 where there is nothing to divide by, as in scikit-learn."""
        precision = self.correct / self.given if self.given else 0.0
        recall = self.correct / self.wanted if self.wanted else 0.0
        return precision, recall, 2 * self.correct / max(self.given + self.wanted, 1)


def field_scores(predictions: Sequence[Prediction]) -> FieldScores | None:
    """Compare answers with their truths; an answer that is missing lacks every leaf."""
    judged = [item for item in predictions if item.ground_truth is not None]
    if not judged:
        return None
    overall, fields = _Tally(), dict[str, _Tally]()
    counts: list[tuple[int, int]] = []
    # Wrong values make better examples than those of answers that could not be read.
    for item in sorted(judged, key=lambda item: item.predicted is None):
        truth = json.loads(item.ground_truth or "null")
        answer = json.loads(item.predicted) if item.predicted is not None else None
        before = (overall.correct, overall.given + overall.wanted)
        for path, wanted, given in _pairs("$", truth, answer):
            overall.add(wanted, given)
            tally = fields.setdefault(path, _Tally())
            if not tally.add(wanted, given) and len(tally.examples) < ERROR_EXAMPLES:
                shown = f"{_shown(wanted)} -> {_shown(given)}"
                example = ErrorExample(index=item.index, text=item.text, predicted=shown)
                tally.examples.append(example)
        counts.append((overall.correct - before[0], overall.given + overall.wanted - before[1]))
    results = {path: _result(tally) for path, tally in fields.items()}
    precision, recall, f1 = overall.shares
    return FieldScores(
        n=len(judged),
        precision=precision,
        recall=recall,
        f1=f1,
        invented=overall.invented / overall.given if overall.given else 0.0,
        fields=dict(sorted(results.items(), key=lambda pair: (pair[1].f1, pair[0]))),
        f1_interval=bootstrap(_f1_of, counts).interval,
    )


def _f1_of(counts: Any) -> float:
    """F1 from two counts of each input: its right values, and all that are given or wanted."""
    correct, values = counts.sum(axis=0)
    return float(2 * correct / max(values, 1))


def _result(tally: _Tally) -> FieldResult:
    precision, recall, f1 = tally.shares
    return FieldResult(
        precision=precision,
        recall=recall,
        f1=f1,
        correct=tally.correct,
        given=tally.given,
        wanted=tally.wanted,
        invented=tally.invented,
        error_examples=tuple(tally.examples),
    )


def _pairs(path: str, truth: Any, answer: Any) -> Iterator[Pair]:
    """Yield the leaves of two values side by side."""
    if isinstance(truth, dict) or isinstance(answer, dict):
        mine, theirs = _as(dict, truth), _as(dict, answer)
        for key in dict.fromkeys([*mine, *theirs]):
            yield from _pairs(f"{path}.{key}", mine.get(key), theirs.get(key))
        truth, answer = _other_than(dict, truth), _other_than(dict, answer)
    if isinstance(truth, list) or isinstance(answer, list):
        for one, other in _paired(_as(list, truth), _as(list, answer)):
            yield from _pairs(f"{path}[]", one, other)
        truth, answer = _other_than(list, truth), _other_than(list, answer)
    if truth is not None or answer is not None:
        yield path, truth, answer


def _as(kind: type[Any], value: Any) -> Any:
    return value if isinstance(value, kind) else kind()


def _other_than(kind: type[Any], value: Any) -> Any:
    return None if isinstance(value, kind) else value


def _paired(truths: list[Any], answers: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair the elements of two lists, those first that have most leaves in common."""
    likeness = sorted(
        (
            (-_agreeing(truth, answer), one, other)
            for one, truth in enumerate(truths)
            for other, answer in enumerate(answers)
        ),
    )
    partner: dict[int, int] = {}
    for _, one, other in likeness:
        if one not in partner and other not in partner.values():
            partner[one] = other
    for one, truth in enumerate(truths):
        yield truth, answers[partner[one]] if one in partner else None
    taken = set(partner.values())
    for other, answer in enumerate(answers):
        if other not in taken:
            yield None, answer


def _agreeing(truth: Any, answer: Any) -> int:
    """Leaves that two elements share, wherever they stand inside lists of their own."""
    return (Counter(_leaves("", truth)) & Counter(_leaves("", answer))).total()


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{path}.{key}", part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(f"{path}[]", part)
    elif value is not None:
        yield path, _normal(value)


def _same(truth: Any, answer: Any) -> bool:
    return answer is not None and _normal(truth) == _normal(answer)


def _normal(value: Any) -> str:
    """A scalar as it is compared; a text is never a number, and true is never 1."""
    if isinstance(value, str):
        return f'"{normalise(value)}"'
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
