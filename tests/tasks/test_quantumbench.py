"""The questions of ``tasks/quantumbench``: their number, forms, sources, gold answers and split."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from prompt_distillation.data.inputs import check_gold, read_inputs
from prompt_distillation.data.splits import is_held_out, normalise
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "example-data" / "quantumbench.jsonl"
FORMS = {"multiple choice", "short answer"}
CATEGORIES = {"quantum physics", "quantum computing"}
BOOKS = ("Gasiorowicz", "Griffiths", "Nielsen and Chuang", "Preskill", "Sakurai", "Shankar")


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def task():
    return load_task(ROOT / "tasks" / "quantumbench")


def answer_of(row):
    return json.loads(row["label"])["answer"]


def test_104_questions_with_a_text_and_an_id_of_their_own(rows):
    assert len(rows) == 104
    assert len({normalise(row["text"]) for row in rows}) == 104
    assert len({row["id"] for row in rows}) == 104


def test_every_row_names_a_book_and_a_chapter(rows):
    for row in rows:
        book, _, chapter = row["source"].rpartition(", ch. ")
        assert book.startswith(BOOKS), row["id"]
        assert chapter.isdigit(), row["id"]


def test_gold_answers_are_the_tasks_and_stand_in_their_one_form(task):
    inputs = list(read_inputs(QUESTIONS))
    assert list(check_gold(inputs, task, where=QUESTIONS)) == inputs


def test_multiple_choice_has_four_different_options_and_each_letter_is_right_equally_often(rows):
    chosen = [row for row in rows if row["form"] == "multiple choice"]
    for row in chosen:
        options = row["text"].split("\n")[1:]
        assert [option[:3] for option in options] == ["A) ", "B) ", "C) ", "D) "], row["id"]
        assert len({normalise(option[3:]) for option in options}) == 4, row["id"]
    assert Counter(map(answer_of, chosen)) == dict.fromkeys("ABCD", 13)


def test_short_answers_have_the_form_that_their_question_asks_for(rows):
    for row in rows:
        if row["form"] != "short answer":
            continue
        answer, text = answer_of(row), row["text"]
        assert "\n" not in text, row["id"]
        if "Write an integer." in text:
            assert answer == str(int(answer)), row["id"]
        elif "Write a fraction." in text:
            assert answer == str(Fraction(answer)), row["id"]
            assert "/" in answer, row["id"]
        elif "Write a decimal number with one decimal place." in text:
            assert answer == f"{float(answer):.1f}", row["id"]
        elif "Write a decimal number with two decimal places." in text:
            assert answer == f"{float(answer):.2f}", row["id"]
        else:
            assert "Write the letter" in text, row["id"]
            assert answer.isupper(), row["id"]


def test_the_documented_split_is_83_to_21_by_whole_topics_with_both_forms_on_both_sides(rows):
    """As ``--held_out 0.2`` with the default seed 0 splits."""
    held_out, train = [], []
    for row in rows:
        side = held_out if is_held_out(row["group"], share=0.2, seed=0) else train
        side.append(row)
    assert (len(train), len(held_out)) == (83, 21)
    assert not {row["group"] for row in train} & {row["group"] for row in held_out}
    for side in (train, held_out):
        assert {row["form"] for row in side} == FORMS
        assert {row["category"] for row in side} == CATEGORIES


@pytest.mark.parametrize("answer", ["four", "1 / 2", "0,5", "1/0", "2 eV", "b", ""])
def test_other_ways_to_write_an_answer_are_rejected(task, answer):
    assert task.answers.accept(json.dumps({"answer": answer})).text is None
