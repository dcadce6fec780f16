import json
import logging

import pytest
from labelling.scripted import answer, completion

from prompt_distillation.labelling.journal import Attempt, digest_of, is_journal, open_journal

IDENTITY: dict[str, object] = {"model": "teacher", "seed": 0}
KEY = bytes(range(16))
SETTINGS = {"settings": digest_of(IDENTITY), "identity": IDENTITY}


def attempt(text: str = "fr", **places) -> Attempt:
    return Attempt(
        **{"vote": 0, "attempt": 0, "temperature": 0.15, "max_tokens": 9, **places},
        completion=answer(text),
    )


def test_what_was_appended_is_read_back(tmp_path):
    path = tmp_path / "a.jsonl"
    failed = Attempt(
        vote=1, attempt=2, temperature=0.5, max_tokens=8, error="no route", refused=True
    )
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, attempt())
        journal.append(KEY, failed)
        assert journal.attempts(KEY) == [attempt(), failed]
    with open_journal(IDENTITY, writable=None, others=[path]) as journal:
        assert journal.attempts(KEY) == [attempt(), failed]
        assert journal.attempts(bytes(16)) == []


def test_every_character_survives(tmp_path):
    path = tmp_path / "a.jsonl"
    text = 'a\u2028b\n\x00"\\ 日本 🙂'
    kept = Attempt(vote=0, attempt=0, temperature=0.0, max_tokens=1, completion=completion(text))
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, kept)
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        assert journal.attempts(KEY) == [kept]


def test_a_failed_request_is_made_again_by_the_next_run(tmp_path):
    path = tmp_path / "a.jsonl"
    failed = Attempt(vote=0, attempt=0, temperature=0.5, max_tokens=8, error="no route")
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, failed)
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        assert KEY not in journal


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_cut_off(tmp_path, caplog, cut):
    path = tmp_path / "a.jsonl"
    other = bytes(16)
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, attempt())
        journal.append(other, attempt())
    path.write_bytes(path.read_bytes()[:-cut])
    with (
        caplog.at_level(logging.WARNING),
        open_journal(IDENTITY, writable=path, others=[]) as journal,
    ):
        assert KEY in journal
        assert other not in journal
        journal.append(other, attempt("en"))
    assert "torn last line" in caplog.text
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("key") for row in rows] == [None, KEY.hex(), other.hex()]


def test_a_damaged_line_costs_only_itself(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, attempt())
        journal.append(bytes(16), attempt())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"  # what a power cut can leave
    path.write_bytes(b"".join(lines))
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        assert KEY not in journal
        assert bytes(16) in journal
    assert "1 damaged lines" in caplog.text


def test_a_damaged_line_of_settings_costs_no_completion(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    changed = IDENTITY | {"model": "another"}
    for identity, key in ((IDENTITY, KEY), (changed, bytes(16))):
        with open_journal(identity, writable=path, others=[]) as journal:
            journal.append(key, attempt())
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (0, 2):
        broken = [b"#" + line if at == damaged else line for at, line in enumerate(lines)]
        path.write_bytes(b"".join(broken))
        for identity, key in ((IDENTITY, KEY), (changed, bytes(16))):
            with open_journal(identity, writable=path, others=[]) as journal:
                assert journal.attempts(key) == [attempt()]
                assert len(journal.earlier_settings()) <= 1
    assert "1 damaged lines" in caplog.text


def test_completions_of_other_settings_are_kept_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, attempt())
    changed = IDENTITY | {"model": "another"}
    with open_journal(changed, writable=path, others=[]) as journal:
        assert KEY not in journal
        assert journal.earlier_settings() == [(IDENTITY, 1)]
        journal.append(KEY, attempt("en"))
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        assert journal.attempts(KEY) == [attempt()]


def test_journals_of_other_shards_are_read(tmp_path):
    paths = [tmp_path / f"{number}.jsonl" for number in range(2)]
    for number, path in enumerate(paths):
        with open_journal(IDENTITY, writable=path, others=[]) as journal:
            journal.append(bytes([number] * 16), attempt())
    with open_journal(IDENTITY, writable=tmp_path / "own.jsonl", others=paths) as journal:
        assert bytes(16) in journal
        assert bytes([1] * 16) in journal


@pytest.mark.parametrize(
    "change",
    [
        {"key": "zz"},
        {"key": "00ff"},
        {"key": 5},
        {"vote": None},
        {"text": None},
        {"finish_reason": "what"},
        {"prompt_tokens": "many"},
        {"reasoning": 5},
        {"error": None},
    ],
)
def test_json_of_somebody_else_is_passed_over_like_a_damaged_line(tmp_path, caplog, change):
    path = tmp_path / "a.jsonl"
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        journal.append(KEY, attempt())
        journal.append(bytes(16), attempt())
    settings, first, second = path.read_bytes().splitlines(keepends=True)
    changed = json.dumps(json.loads(first) | change).encode() + b"\n"
    path.write_bytes(settings + changed + b'[1]\n{"settings": "abc", "identity": {}}\n' + second)
    with open_journal(IDENTITY, writable=path, others=[]) as journal:
        assert KEY not in journal
        assert journal.attempts(bytes(16)) == [attempt()]
    assert "3 damaged lines" in caplog.text


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b'{"text": "a diary"}\n', False),
        (b"no JSON at all", False),
        (b'{"sett', True),
        (b"\0\0\0\n", True),
        (b"#damaged\n" + json.dumps(SETTINGS).encode() + b"\n", True),
    ],
)
def test_a_file_of_somebody_else_is_no_journal(tmp_path, content, ours):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert is_journal(path) is ours
