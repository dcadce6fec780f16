"""JSON answers are read strictly, and equal objects are equal texts."""

import json

import pytest

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks import RejectReason, load_task

SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "object", "properties": {"z": {}, "a": {}}}},
    },
}


@pytest.fixture
def make_task(tmp_path):
    def make(schema=SCHEMA, extra=""):
        (tmp_path / "task.yaml").write_text(f"name: card\nkind: json\n{extra}")
        (tmp_path / "prompt.md").write_text("Answer in JSON.")
        text = schema if isinstance(schema, str) else json.dumps(schema)
        (tmp_path / "schema.json").write_text(text)
        return load_task(tmp_path)

    return make


def read(task, text):
    return task.parse(text, finish_reason="stop", thinking=True)


def test_equal_objects_are_equal_texts_in_the_order_of_the_schema(make_task):
    task = make_task()
    for text in (
        '{"tags": [{"a": 1, "z": "ü"}], "age": 7.0, "name": "Ada"}',
        'So:\n```json\n{"name":"Ada","age":7,\n"tags":[{"z":"\\u00fc","a":1.0}]}\n```\nDone.',
        'It is {"age": 7, "name": "Ada", "tags": [{"a": 1, "z": "ü"}]}, I think.',
    ):
        answer = read(task, "Hm {}</think>" + text)
        assert answer.text == '{"name":"Ada","age":7,"tags":[{"z":"ü","a":1}]}'
        assert answer.reasoning == "Hm {}"


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("none", RejectReason.NO_JSON, "no JSON in 'none'"),
        ('{"name": "Ada", "age": 7', RejectReason.NO_JSON, "no JSON"),
        ('{"name": "Ada", "age": NaN}', RejectReason.NO_JSON, "no JSON"),
        ('{"name": "Ada", "age": 7, "age": 8}', RejectReason.NO_JSON, "no JSON"),
        ("[" * 100_000, RejectReason.NO_JSON, "no JSON"),
        ("7", RejectReason.SCHEMA, r"$: 7 is not of type 'object'"),
        ('{"name": "Ada"}', RejectReason.SCHEMA, "$: 'age' is a required property"),
        ('{"name": "Ada", "age": "7"}', RejectReason.SCHEMA, "$.age: '7' is not of type 'integer'"),
        ('{"name": "ada", "age": 7}', RejectReason.SCHEMA, "$.name: 'ada' does not match '^[A-Z]'"),
        ('{"name": "A", "age": 7, "tags": [{}, 3]}', RejectReason.SCHEMA, "$.tags[1]: 3 is not"),
    ],
)
def test_what_is_no_answer_says_where_it_went_wrong(make_task, text, reason, detail):
    answer = read(make_task(), "</think>" + text)
    assert answer.text is None
    assert answer.reject_reason is reason
    assert detail in answer.detail


def test_half_a_character_in_a_value_can_be_written(make_task):
    answer = read(make_task(), '</think>{"name": "A\\ud83d", "age": 1}')
    assert answer.text == '{"name":"A\ufffd","age":1}'


def test_gold_is_put_into_the_same_form(make_task):
    task = make_task()
    assert task.require_answer('{"age": 1, "name": "A"}', where="x") == '{"name":"A","age":1}'
    with pytest.raises(TaskError, match=r"gold\.jsonl, line 2: \$\.age: 'x' is not of type"):
        task.require_answer('{"age": "x", "name": "A"}', where="gold.jsonl, line 2")


@pytest.mark.parametrize(
    ("schema", "extra", "message"),
    [
        ("{", "", r"schema\.json: not JSON"),
        ("[]", "", r"expected a JSON Schema object"),
        ({"type": "objekt"}, "", r"schema\.json: not a JSON Schema: 'objekt' is not valid"),
        ({"$ref": "other.json"}, "", r"'other\.json' leads to another file"),
        ({"pattern": "(?=a)b"}, "", r"the pattern '\(\?=a\)b' cannot be used"),
        (SCHEMA, "schema_file: absent.json\n", r"cannot read .*absent\.json"),
        (SCHEMA, "labels: [a, b]\n", "kind json has no labels"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_when_loaded(make_task, schema, extra, message):
    with pytest.raises(TaskError, match=message):
        make_task(schema, extra)


def test_only_json_can_vote_by_field(make_task, tmp_path):
    assert make_task(extra="votes: field\n").answers.settings["votes"] == "field"
    with pytest.raises(TaskError, match="votes is 'leaf'; it must be object or field"):
        make_task(extra="votes: leaf\n")
    for kind in ("text", "classification"):
        (tmp_path / "task.yaml").write_text(f"kind: {kind}\nvotes: field\n")
        with pytest.raises(TaskError, match=f"kind {kind} has no votes"):
            load_task(tmp_path)
