"""Answers that are JSON, as a schema in the task's folder describes them.

The answer is the whole text, what a code fence holds, or what stands between the first and the last
brace. It is validated with `jsonschema`, and written in one canonical form: keys in the schema's
order, no spaces, 1.0 as 1. Equal objects are then equal texts: one vote, one training target.

Several votes on an input choose one of the objects, or with ``votes: field`` in ``task.yaml`` each
field by itself: its most frequent value, lists as whole values. An object put together in this way
has to be valid too, else the votes are counted by whole objects.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks.answer_kind import (
    Answer,
    AnswerKind,
    MetricFamily,
    RejectReason,
    VoteCount,
    count_whole_answers,
)
from prompt_distillation.tasks.patterns import (
    PatternError,
    compile_pattern,
    without_half_characters,
)

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_LARGEST_EXACT = 2**53
"""Up to here a float that is whole is exactly that whole number."""


@dataclass(frozen=True)
class JsonObject(AnswerKind):
    """The kind ``json``, see `AnswerKind`; ``votes`` are on whole objects or on each field."""

    schema: Mapping[str, Any]
    votes: Literal["object", "field"] = "object"
    name: str = "json"
    has_right_answers: bool = True
    metrics: MetricFamily = "fields"

    @cached_property
    def json_schema(self) -> str:
        """The schema as text, for engines that can decode by it."""
        return json.dumps(self.schema)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The schema, and how votes are counted unless by whole objects."""
        by_field = {"votes": self.votes} if self.votes == "field" else {}
        return {**super().settings, "schema": self.schema, **by_field}

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.validators import extend, validator_for

        return extend(validator_for(self.schema), {"pattern": _check_pattern})(self.schema)

    def read(self, text: str) -> Answer:
        """The JSON in a text, if it is valid by the schema; in canonical form."""
        for candidate in _candidates(text):
            try:
                return self._validated(_parse(candidate))
            except (ValueError, RecursionError):  # the latter: thousands of open brackets
                continue
        return Answer(reject_reason=RejectReason.NO_JSON, detail=f"no JSON in {text[:60]!r}")

    def _validated(self, value: Any) -> Answer:
        violations = self._validator.iter_errors(value)
        first = min(violations, key=lambda error: list(map(str, error.absolute_path)), default=None)
        if first is not None:
            return Answer(
                reject_reason=RejectReason.SCHEMA,
                detail=f"{first.json_path}: {first.message[:200]}",
            )
        ordered = _in_order(value, self.schema)
        text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
        return Answer(text=text)

    def count_votes(self, answers: Sequence[str]) -> VoteCount:
        """By whole objects, or field by field where the result is valid."""
        if self.votes == "field":
            tallies = _tallies_of_fields(answers)
            winner = _assemble(
                {path: tally.most_common(1)[0][0] for path, tally in tallies.items()}
            )
            answer = self._validated(winner)
            if answer.text is not None:
                # A field that no vote has had so far may still come up.
                unseen: Counter[str | None] = Counter({None: len(answers)})
                return VoteCount(winner=answer.text, tallies=(*tallies.values(), unseen))
        return count_whole_answers(answers)


def read_json_kind(fields: Mapping[str, Any], path: Path) -> JsonObject:
    """Read the schema that stands beside a task file, ``schema.json`` or as ``schema_file`` says.

    Raises:
        TaskError: there is none, it is not a JSON Schema, or it needs another file; or ``votes``
            is neither ``object`` nor ``field``.
    """
    for key in ("labels", "answer_pattern"):
        if fields.get(key):
            raise TaskError(f"{path}: kind json has no {key}; its answers are read by the schema")
    votes: Any = fields.get("votes") or "object"
    if votes not in ("object", "field"):
        raise TaskError(f"{path}: votes is {votes!r}; it must be object or field")
    schema_path = path.with_name(str(fields.get("schema_file") or "schema.json"))
    return JsonObject(_read_schema(schema_path, path=path), votes)


def _read_schema(schema_path: Path, *, path: Path) -> Mapping[str, Any]:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(schema_path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TaskError(
            f"{path}: cannot read the schema {schema_path}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{schema_path}: not JSON ({error})") from error
    if not isinstance(schema, dict):
        raise TaskError(f"{schema_path}: expected a JSON Schema object, got {schema!r}")
    if elsewhere := [name for name in _values_of("$ref", schema) if name[:1] != "#"]:
        raise TaskError(
            f"{schema_path}: $ref {elsewhere[0]!r} leads to another file; copy it into $defs"
        )
    try:
        validator_for(schema).check_schema(schema)
        for pattern in _values_of("pattern", schema):
            compile_pattern(pattern)
    except SchemaError as error:
        raise TaskError(f"{schema_path}: not a JSON Schema: {error.message}") from error
    except PatternError as error:
        raise TaskError(f"{schema_path}: the pattern {pattern!r} {error}") from error
    return schema


def _check_pattern(validator: Any, pattern: str, text: Any, schema: Any) -> Iterable[Exception]:
    """The keyword ``pattern`` of JSON Schema, by a library that cannot search forever."""
    from jsonschema.exceptions import ValidationError

    if isinstance(text, str) and not compile_pattern(pattern).search(text):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


def _candidates(text: str) -> Iterable[str]:
    yield text
    if fences := _FENCE.findall(text):
        yield fences[-1]
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        yield text[start : end + 1]


def _parse(text: str) -> Any:
    """Parse strictly: no key twice, no NaN."""

    def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    value = json.loads(text, object_pairs_hook=no_key_twice, parse_constant=refuse)
    if "\\u" in text:  # JSON can escape half of a character, which no file can hold
        value = json.loads(without_half_characters(json.dumps(value, ensure_ascii=False)))
    return value


def _in_order(value: Any, schema: Any) -> Any:
    """Keys in the order of the schema's properties, others after them; whole floats as integers."""
    known = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, dict):
        properties = known.get("properties") or {}
        keys = [key for key in properties if key in value]
        keys += sorted(key for key in value if key not in properties)
        return {key: _in_order(value[key], properties.get(key)) for key in keys}
    if isinstance(value, list):
        return [_in_order(item, known.get("items")) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return int(value)
    return value


def _tallies_of_fields(answers: Sequence[str]) -> dict[tuple[str, ...], Counter[str | None]]:
    """Path of each field -> its values as JSON and their votes; None: the field is not there."""
    objects = [_fields_of(answer) for answer in answers]
    paths = dict.fromkeys(path for one in objects for path in one)
    return {path: Counter(one.get(path) for one in objects) for path in paths}


@lru_cache(maxsize=4096)  # votes are counted again with each one that comes in
def _fields_of(answer: str) -> Mapping[tuple[str, ...], str]:
    return dict(_fields((), json.loads(answer)))


def _fields(path: tuple[str, ...], value: Any) -> Iterable[tuple[tuple[str, ...], str]]:
    """The fields of an object and of the objects in it; anything else is one value."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _fields((*path, key), part)
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _assemble(fields: Mapping[tuple[str, ...], str | None]) -> Any:
    """The object of these fields. One that is both a value and an object becomes the object."""
    whole: dict[str, Any] = {}
    for path, value in sorted(fields.items(), key=lambda field: len(field[0])):
        if value is None:
            continue
        if not path:
            return json.loads(value)
        place = whole
        for key in path[:-1]:
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[path[-1]] = json.loads(value)
    return whole


def _values_of(keyword: str, schema: Any) -> Iterable[str]:
    """The texts that stand under a keyword, anywhere in a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get(keyword), str):
            yield schema[keyword]
        for part in schema.values():
            yield from _values_of(keyword, part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _values_of(keyword, part)
