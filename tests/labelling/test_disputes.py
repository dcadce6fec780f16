import json
from pathlib import Path

from prompt_distillation.labelling.disputes import Doubt, find_disputes


def record(text: str, answer: str | None, **fields) -> dict:
    return {
        "text": text, "answer": answer, "teacher_answer": answer, "gold": None,
        "votes": {answer: 1} if answer else {}, "reject_reason": None,
    } | fields  # fmt: skip


def disputes(folder: Path, *records: dict, doubts=tuple(Doubt)) -> list[tuple[str, str, str]]:
    path = folder / "out.records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return [(d.record["text"], d.doubt.value, d.evidence) for d in find_disputes(path, doubts)]


def test_each_kind_of_doubt_is_found_and_the_rest_is_not(tmp_path):
    found = disputes(
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
    assert len(disputes(tmp_path, split, split | {"text": "hello "})) == 1


def test_the_same_words_after_another_turn_are_another_input(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in ("Sure?", "Hungry?")]
    rejected = [record("yes", None, reject_reason="no_label", history=turn) for turn in turns]
    assert len(disputes(tmp_path, *rejected)) == 2


def test_one_record_has_no_neighbours(tmp_path):
    assert disputes(tmp_path, record("Hello", "fr")) == []
