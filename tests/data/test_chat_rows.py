import json

import pytest

from prompt_distillation.data.chat_rows import read_chat_rows
from prompt_distillation.errors import InputError


def turn(role, content):
    return {"role": role, "content": content}


def test_the_last_message_is_the_answer_and_the_rest_its_context(tmp_path):
    messages = [
        turn("system", "Be brief."),
        turn("user", "Hi"),
        turn("assistant", "Hello"),
        turn("user", "Wo?"),
        turn("assistant", "de"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (row,) = read_chat_rows(path)
    assert row.answer == turn("assistant", "de")
    assert list(row.context) == messages[:-1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "line 2: a row needs a list 'messages', got the keys text"),
        ({"messages": []}, "a row needs a list 'messages'"),
        ({"messages": [turn("user", "x")]}, "it must be the assistant's answer"),
        ({"messages": [turn("assistant", "x")]}, "must follow a message of the user"),
        ({"messages": [turn("user", "x"), turn("assistant", " ")]}, "answer is empty"),
        ({"messages": [turn("tool", "x"), turn("assistant", "y")]}, "role is 'tool'"),
        ({"messages": [turn("user", 3), turn("assistant", "y")]}, "content is a int"),
        ({"messages": ["x", turn("assistant", "y")]}, "an object with role and content"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    good = {"messages": [turn("user", "x"), turn("assistant", "y")]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_chat_rows(path)


def test_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds no rows"):
        read_chat_rows(path)
