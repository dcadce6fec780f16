import json
import logging
from pathlib import Path

import pytest

from prompt_distillation.config import InputConfig
from prompt_distillation.data.inputs import (
    MAX_CHARACTERS,
    Input,
    check_gold,
    gold_path_of,
    read_gold_file,
    read_inputs,
    with_gold,
)
from prompt_distillation.data.splits import group_of_text
from prompt_distillation.errors import InputError, TaskError
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).parents[2]
ROWS = [
    {"text": "Guten Tag, Welt", "label": "de", "group": "g1"},
    {"text": 'He said "no",\nand left', "label": "en", "group": "g2"},
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_text(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def write_parquet(path, rows):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_dataset(path, rows):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


QUOTED = 'text,label,group\n"Guten Tag, Welt",de,g1\n"He said ""no"",\nand left",en,g2\n'
TABBED = 'text\tlabel\tgroup\n"Guten Tag, Welt"\tde\tg1\n"He said ""no"",\nand left"\ten\tg2\n'
WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
    "folder": write_dataset,
    "rows.csv": lambda path, _: write_text(path, QUOTED),
    "rows.tsv": lambda path, _: write_text(path, TABBED),
}


def texts(path, **options):
    return [item.text for item in read_inputs(path, **options)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_inputs(tmp_path, name):
    path = WRITERS[name](tmp_path / name, ROWS)
    assert list(read_inputs(path)) == [
        Input(index=0, text="Guten Tag, Welt", group="g1", gold="de"),
        Input(index=1, text='He said "no",\nand left', group="g2", gold="en"),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "folder"])
def test_the_fields_may_have_other_names(tmp_path, name):
    rows = [{"body": "Hallo", "lang": "de", "id": 7}]
    path = WRITERS[name](tmp_path / name, rows)
    (item,) = read_inputs(
        path, fields=InputConfig(text_field="body", label_field="lang", group_field="id")
    )
    assert (item.text, item.gold, item.group) == ("Hallo", "de", "7")


def test_a_text_file_with_windows_line_ends_a_mark_and_blank_lines(tmp_path, caplog):
    path = tmp_path / "in.txt"
    path.write_bytes("\ufeffeins\r\n\r\n  \r\n zwei \r\ndrei".encode())
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["eins", " zwei ", "drei"]
    assert "skipped 2 blank lines" in caplog.text


def test_the_gold_file_beside_a_text_file(tmp_path):
    path = write_text(tmp_path / "in.txt", "eins\n\nzwei\ndrei\n")
    assert gold_path_of(path) == tmp_path / "in.gold.jsonl"
    write_jsonl(
        gold_path_of(path),
        [{"label": "de", "group": "a"}, {"label": None, "group": "a"}, {"label": "ot"}],
    )
    assert [(item.gold, item.group) for item in read_inputs(path)] == [
        ("de", "a"),
        (None, "a"),
        ("ot", group_of_text("drei")),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": "de"}], "has 1 rows, but .* more lines"),
        ([{"label": "de"}] * 3, "has more rows than .* lines with text \\(2\\)"),
        ([{"lable": "de"}, {"label": "de"}], "line 1: no text in the field 'label'"),
        ([{"label": "de"}, {"label": 3}], "line 2: no text in the field 'label'"),
    ],
)
def test_a_gold_file_that_does_not_fit(tmp_path, rows, message):
    path = write_text(tmp_path / "in.txt", "eins\nzwei\n")
    write_jsonl(gold_path_of(path), rows)
    with pytest.raises(InputError, match=message):
        list(read_inputs(path))


def test_conversations(tmp_path):
    user, answer = {"role": "user", "content": "b"}, {"role": "assistant", "content": "ot"}
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "en"}]
    system = {"role": "system", "content": "old prompt"}
    path = write_jsonl(
        tmp_path / "chat.jsonl",
        [
            {"messages": [user]},
            {"messages": [system, *earlier, user, answer]},
            {"messages": [user, answer], "label": "de", "group": "g"},
        ],
    )
    first, second, third = read_inputs(path)
    assert (first.text, first.gold, first.history) == ("b", None, ())
    assert (second.text, second.gold, second.history) == ("b", "ot", tuple(earlier))
    assert (third.gold, third.group) == ("de", "g")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must end with a user turn"),
        ([{"role": "system", "content": "x"}], "must end with a user turn"),
        ([{"role": "assistant", "content": "x"}], "must end with a user turn"),
        ([{"role": "user"}], "needs a role and a content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a content that is a text"),
        (["hello"], "needs a role and a content"),
        ([{"role": "tool", "content": "x"}], "role 'tool'; allowed are system, user, assistant"),
    ],
)
def test_conversations_that_ask_nothing(tmp_path, messages, message):
    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": messages}])
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        list(read_inputs(path))


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "holds no inputs; it needs at least one line"),
        ("in.txt", b" \n\n", "holds no inputs"),
        ("in.jsonl", b"\n", "holds no inputs"),
        ("in.csv", b"text,label\n", "holds no inputs"),
        ("in.txt", b"caf\xe9\n", "line 1: not UTF-8"),
        ("in.csv", b"text\ncaf\xe9\n", "line 2: not UTF-8"),
        ("in.txt", b"ok\n" + b"x" * 100_000, "line 2: 100,000 characters, at most 32,768"),
        ("in.csv", b"text\n" + b"x" * 200_000, "line 2: 200,000 characters"),
        ("in.csv", b"body,label\nhi,en\n", "line 2: no text in the field 'text'; .* body, label"),
        ("in.csv", b"text;label\nhi;en\n", r"has text;label \(one field, with a semicolon in"),
        ("in.csv", b"text\tlabel\nhi\ten\n", r"\(one field, with a tab in its name"),
        ("in.tsv", b"text,label\nhi,en\n", r"\(one field, with a comma in its name"),
        ("in.csv", b"body\nhi\n", r"has body \(set --text_field\)"),
        ("in.csv", b"text\rHallo\r", r"carriage return alone; .*`tr"),
        ("in.txt", b"eins\rzwei\r", r"carriage return alone"),
        ("in.txt", b"\x1f\x8b\x08\x00", "compressed with gzip; .*gunzip"),
        ("in.txt", "Grüße\n".encode("utf-16"), "UTF-16, not UTF-8; .*iconv -f UTF-16LE"),
        ("in.txt", "Grüße\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("in.csv", "text\nGrüße\n".encode("utf-16-be"), "iconv -f UTF-16BE"),
        ("in.jsonl", bytes(64), "binary"),
        ("in.csv", b"text,label\nHello, world, how are you,en\n", "line 2: 4 fields, .* has 2"),
        ("in.csv", b'text\nok\n"never closed\n', "line 3: a quote that is not closed"),
        ("in.csv", b'text,label\n"a" b,en\n', "line 2: a quote .* whole field"),
        ("in.csv", b"text,text\na,b\n", "line 1: the header names 'text' twice"),
        ("in.tsv", b'text\tlabel\n"Yes\tde\nNo\tde\nOh"\tde\n', "line 2: .*stray quote"),
        ("in.tsv", b'text\tlabel\n"Yes\tde\n"No\tde\n', "line 2: a quote"),
        ("in.jsonl", b'{"text": 5}', "line 1: the field 'text' holds a value of type int"),
        ("in.jsonl", b'{"text": null}', "line 1: the field 'text' holds null"),
        ("in.jsonl", b"[" * 5000, "line 1: not JSON"),
        ("in.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
        ("in.jsonl", b'{"text": "  "}', "line 1: the text is empty"),
        ("in.jsonl", b"{text: 1}", "line 1: not JSON"),
        ("in.jsonl", b'"text"', "line 1: expected a JSON object"),
        ("in.parquet", b"PAR2", "not a Parquet file"),
        ("in.docx", b"x", "unknown format '.docx'; known are .txt, .jsonl"),
        ("in", b"x", "unknown format ''"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_inputs(path))
    assert str(path) in str(caught.value)


def test_bytes_in_parquet_name_their_row_and_type(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", [{"text": b"a"}])
    with pytest.raises(InputError, match="row 0: the field 'text' holds a value of type bytes"):
        list(read_inputs(path))


def test_half_characters_are_replaced_and_counted(tmp_path, caplog):
    path = write_text(
        tmp_path / "in.jsonl", '{"text": "cut \\ud83d"}\n{"text": "whole \U0001f600"}\n'
    )
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["cut \ufffd", "whole \U0001f600"]
    assert "1 inputs held half a character" in caplog.text


@pytest.mark.parametrize(
    "fields", [InputConfig(label_field="intent"), InputConfig(group_field="thread")]
)
def test_a_field_that_was_asked_for_must_be_there(tmp_path, fields):
    path = write_text(tmp_path / "in.csv", "text,label\nhi,en\n")
    with pytest.raises(InputError, match=r"line 2: no field '(intent|thread)'; .* text, label"):
        list(read_inputs(path, fields=fields))


def test_a_text_of_the_greatest_length_is_taken(tmp_path):
    path = write_text(tmp_path / "in.txt", "ж" * MAX_CHARACTERS)
    assert len(texts(path)[0]) == MAX_CHARACTERS


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no such input file: .*absent\.txt; check the path"):
        list(read_inputs(tmp_path / "absent.txt"))
    with pytest.raises(InputError, match="not a folder written by save_to_disk"):
        list(read_inputs(tmp_path))


def test_a_folder_of_several_splits_names_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"holds the splits train, test; .*both/train"):
        list(read_inputs(tmp_path / "both"))


# --- gold files --------------------------------------------------------------------------------


def test_gold_labels_from_a_file(tmp_path):
    inputs = list(read_inputs(write_text(tmp_path / "in.txt", "eins\nzwei\n")))
    plain = write_text(tmp_path / "plain.txt", "de\n\n ot \n")
    assert [item.gold for item in with_gold(inputs, plain)] == ["de", "ot"]
    rows = write_jsonl(tmp_path / "g.jsonl", [{"label": "de", "group": 4}, {"label": None}])
    assert read_gold_file(rows) == [("de", "4"), (None, None)]
    first, second = with_gold(inputs, rows)
    assert (first.gold, first.group) == ("de", "4")
    assert (second.gold, second.group) == (None, inputs[1].group)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.txt", "", "holds no labels"),
        ("g.txt", "de\n", "has 1 labels for 2 inputs; it needs one each"),
        ("g.jsonl", '{"label": 3}\n', "line 1: no text in the field 'label'"),
    ],
)
def test_gold_files_that_cannot_be_used(tmp_path, name, content, message):
    inputs = list(read_inputs(write_text(tmp_path / "in.txt", "eins\nzwei\n")))
    with pytest.raises(InputError, match=message):
        with_gold(inputs, write_text(tmp_path / name, content))


def test_an_unknown_gold_label_names_its_row():
    task = load_task(ROOT / "tasks" / "language")
    known = Input(index=0, text="a", group="a", gold="de")
    silent = Input(index=1, text="b", group="b")
    unknown = Input(index=2, text="c", group="c", gold="jp")
    assert list(check_gold([known, silent], task, where=Path("f.txt"))) == [known, silent]
    with pytest.raises(TaskError, match=r"f\.txt, input 3: unknown label 'jp'; .* zh, ot"):
        list(check_gold([known, unknown], task, where=Path("f.txt")))
