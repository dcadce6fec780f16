import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation.data.files import (
    atomic_writer,
    read_json,
    read_jsonl,
    read_lines,
    refuse_to_overwrite,
    refuse_unsafe_outputs,
    write_json,
    write_jsonl,
)
from prompt_distillation.errors import ConfigError, InputError, OutputExistsError, OutputWriteError


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_can_be_read(tmp_path):
    rows = [{"text": "naïve ‘quotes’ \u2028 and 你好", "n": 1}, {"text": "\t\n", "n": None}]
    assert write_jsonl(tmp_path / "new" / "rows.jsonl", iter(rows)) == 2
    assert [row for _, row in read_jsonl(tmp_path / "new" / "rows.jsonl")] == rows
    write_json(tmp_path / "one.json", rows[0])
    assert read_json(tmp_path / "one.json") == rows[0]
    assert "你好" in (tmp_path / "one.json").read_text(encoding="utf-8")


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": True}])

    def rows():
        yield {"new": True}
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        write_jsonl(path, rows())
    assert json.loads(path.read_text()) == {"old": True}
    assert files_in(tmp_path) == ["rows.jsonl"]


def test_what_is_not_json_is_refused_before_the_file_changes(tmp_path):
    path = tmp_path / "one.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"loss": 1.0}


def test_an_error_of_ours_inside_the_block_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OutputExistsError, match="other"), atomic_writer(tmp_path / "file"):
        raise OutputExistsError("other is already there")
    assert files_in(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(OutputWriteError, match=r"cannot write .*data/rows\.jsonl"):
        write_jsonl(tmp_path / "data" / "rows.jsonl", [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputWriteError, match="Permission denied"):
        write_json(tmp_path / "one.json", {})


def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": True}])
    # A limit on a file's size fails a write as a full disk does, in a process of its own.
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from prompt_distillation.errors import OutputWriteError\n"
        "from prompt_distillation.data.files import write_jsonl\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    write_jsonl(Path(sys.argv[1]), ({'text': 'x' * 1000} for _ in range(1000)))\n"
        "except OutputWriteError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"cannot write {path}: File too large" in done.stdout
    assert json.loads(path.read_text()) == {"old": True}
    assert files_in(tmp_path) == ["rows.jsonl"]


def test_refuse_to_overwrite(tmp_path):
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.touch()
    refuse_to_overwrite([absent], overwrite=False)
    refuse_to_overwrite([absent, there], overwrite=True)
    with pytest.raises(OutputExistsError, match=r"there already exists; pass --overwrite"):
        refuse_to_overwrite([absent, there], overwrite=False)


def overlapping(folder):
    """Pairs of an output and an input that are the same place, or one inside the other."""
    (folder / "models" / "mine").mkdir(parents=True)
    (folder / "models" / "mine" / "adapter.bin").write_text("paid for")
    (folder / "rows.jsonl").write_text("rows")
    (folder / "link.jsonl").symlink_to("rows.jsonl")
    (folder / "hard.jsonl").hardlink_to(folder / "rows.jsonl")
    (folder / "away").symlink_to("models")
    return [
        ("rows.jsonl", "rows.jsonl"),
        ("rows.jsonl", "link.jsonl"),
        ("link.jsonl", "rows.jsonl"),
        ("hard.jsonl", "rows.jsonl"),
        ("models/../rows.jsonl", "rows.jsonl"),
        ("models", "models/mine"),
        ("away", "models/mine"),
        ("models/mine/new", "models/mine"),
        (".", "rows.jsonl"),
    ]


@pytest.mark.parametrize("pair", range(9))
def test_an_output_that_would_destroy_an_input_is_refused(tmp_path, monkeypatch, pair):
    monkeypatch.chdir(tmp_path)
    output, source = overlapping(tmp_path)[pair]
    with pytest.raises(ConfigError, match="would overwrite"):
        refuse_unsafe_outputs([Path(output)], [Path(source)], is_ours=lambda _: True)


def test_only_what_is_ours_may_be_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    absent, source = tmp_path / "absent", tmp_path / "in.txt"
    free = [absent, tmp_path / "folder", tmp_path / "empty", tmp_path / "link"]
    refuse_unsafe_outputs(free, [source], is_ours=lambda _: False)
    for taken in (tmp_path, tmp_path / "notes.txt"):
        refuse_unsafe_outputs([taken], [], is_ours=lambda _: True)
        with pytest.raises(OutputExistsError, match="with or without --overwrite"):
            refuse_unsafe_outputs([taken], [], is_ours=lambda _: False)


def test_links_in_a_circle_are_told(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="cannot use"):
        refuse_unsafe_outputs([tmp_path / "a"], [tmp_path / "c"], is_ours=lambda _: True)


def test_only_line_feeds_end_lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\x0b\x85\n\nfour".encode())
    assert list(read_lines(path)) == [
        (1, "one"),
        (2, "two\u2028still two\x0b\x85"),
        (3, ""),
        (4, "four"),
    ]


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"fine\nGr\xfc\xdfe\n")
    with pytest.raises(InputError, match=r"latin1\.txt, line 2: not UTF-8 .*iconv"):
        list(read_lines(path))


@pytest.mark.parametrize("reader", [read_lines, read_jsonl])
def test_a_file_that_is_not_there(tmp_path, reader):
    with pytest.raises(InputError, match=r"no such file: .*absent.*check the path"):
        list(reader(tmp_path / "absent"))
    with pytest.raises(InputError, match="no such file"):
        list(reader(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [("{'a': 1}", "not JSON"), ("[1]", "expected a JSON object, got '\\[1\\]'")],
)
def test_lines_that_are_no_json_objects(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"fine": 1}\n\n' + line + "\n")
    with pytest.raises(InputError, match=f"line 3: {message}"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[]", "expected a JSON object, got a list"),
    ],
)
def test_a_document_that_is_no_json_object(tmp_path, content, message):
    path = tmp_path / "one.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(Path("absent.json"))
