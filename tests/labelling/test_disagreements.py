import json
from pathlib import Path

import pytest

from prompt_distillation.errors import InputError
from prompt_distillation.labelling.disagreements import DisagreementKind, find_disagreements


def record(text: str, answer: str | None, **fields) -> dict:
    return {
        "index": 0, "text": text, "history": [], "group": text, "gold": None, "held_out": False,
        "answer": answer, "teacher_answer": answer, "reject_reason": None, "reasoning": None,
        "votes": {answer: 1} if answer else {}, "finish_reason": "stop", "prompt_tokens": 9,
        "completion_tokens": 2, "seconds": 0.1,
    } | fields  # fmt: skip


def disagreements(folder: Path, *records: dict) -> list[tuple[str, str, str]]:
    path = folder / "out.records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return [
        (found.record["text"], found.kind.value, found.evidence)
        for found in find_disagreements(path, DisagreementKind)
    ]


def test_each_kind_is_found_and_the_rest_is_not(tmp_path):
    found = disagreements(
        tmp_path,
        record("Guten Morgen", "de"),
        record("hello", "fr", votes={"fr": 2, "en": 1}),
        record("merci", "es", gold="fr"),
        record("hm", None, reject_reason="no_label", gold="ot"),
        record("I have lost my blue umbrella on the bus again", "en"),
        record("I have lost my blue umbrella on the bus again!!", "ot"),
    )
    assert found == [
        ("hello", "votes", "votes: fr 2, en 1"),
        ("merci", "gold", "gold says fr"),
        (
            "I have lost my blue umbrella on the bus again",
            "duplicates",
            "labelled ot: I have lost my blue umbrella on the bus again!!",
        ),
        (
            "I have lost my blue umbrella on the bus again!!",
            "duplicates",
            "labelled en: I have lost my blue umbrella on the bus again",
        ),
        ("hm", "rejects", "no label: no_label"),
    ]


def test_an_input_and_its_duplicates_are_shown_once(tmp_path):
    split = record("Hello", "fr", votes={"fr": 2, "en": 1}, gold="en")
    assert len(disagreements(tmp_path, split, split | {"text": "hello "})) == 1


def test_the_same_words_after_another_turn_are_another_input(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in ("Sure?", "Hungry?")]
    rejected = [record("yes", None, reject_reason="no_label", history=turn) for turn in turns]
    assert len(disagreements(tmp_path, *rejected)) == 2


def test_one_record_has_no_neighbours(tmp_path):
    assert disagreements(tmp_path, record("Hello", "fr")) == []


@pytest.mark.parametrize("damage", [{"votes": None}, {"history": ["hello"]}, {"text": 5}])
def test_a_row_that_is_not_a_record_is_named(tmp_path, damage):
    with pytest.raises(InputError, match=r"records\.jsonl, line 2: not a labelling record"):
        disagreements(tmp_path, record("Hello", "fr"), record("Hi", "fr") | damage)
