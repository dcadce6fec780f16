import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from prompt_distillation.data.question_templates import draw, read_templates
from prompt_distillation.errors import InputError

BEETHOVEN = Path(__file__).parents[2] / "tasks" / "beethoven" / "questions.yaml"

SMALL = """
slots: {who: [Bach, Handel, Gluck], what: [a fugue, a song]}
categories:
  one: ["Who was {who}?", "{what} by {who}?"]
  two: ["Why {what}?"]
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(SMALL)
    return read_templates(path)


def drawn(templates, *, seed=0, keep=lambda text: True):
    return list(draw(templates, seed=seed, keep=keep))


def test_every_combination_is_drawn_once_and_begins_with_a_capital(small):
    texts = [text for text, _, _ in drawn(small)]
    assert small.combinations == len(texts) == len(set(texts)) == 11
    assert "A fugue by Bach?" in texts


def test_the_seed_decides_the_order(small):
    assert drawn(small) == drawn(small)
    assert drawn(small) != drawn(small, seed=1)


def test_categories_and_templates_take_turns_until_one_is_used_up(small):
    rows = drawn(small)
    assert [category for _, category, _ in rows[:4]] == ["one", "two", "one", "two"]
    assert Counter(template for _, _, template in rows[:6]) == {
        "Who was {who}?": 2, "{what} by {who}?": 2, "Why {what}?": 2,
    }  # fmt: skip


def test_another_text_replaces_one_that_is_not_kept(small):
    rows = drawn(small, keep=lambda text: "Bach" not in text)
    assert Counter(template for _, _, template in rows)["Who was {who}?"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no category with a list"),
        ("categories: {a: []}", "needs a list"),
        ("categories: {a: [{x: 1}]}", "must be a text"),
        ("categories: {a: ['{who}?']}", "uses {who}"),
        ("slots: {who: [x]}\ncategories: {a: ['why?']}", "no template uses the slot 'who'"),
        ("categories: {a: ['why?'], b: ['why?']}", "stands there twice"),
        ("templates: []", "unknown key 'templates'"),
        ("categories: [", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, said):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_templates(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_template_with_billions_of_combinations_is_drawn_from_at_once(tmp_path):
    names = [f"s{number}" for number in range(30)]
    words = [f"word{number}" for number in range(10)]
    sentence = " ".join("{" + name + "}" for name in names)
    path = tmp_path / "templates.yaml"
    fields = {"slots": dict.fromkeys(names, words), "categories": {"a": [sentence]}}
    path.write_text(json.dumps(fields))  # JSON is YAML
    first = [text for text, _, _ in islice(
        draw(read_templates(path), seed=0, keep=lambda text: True), 50)]  # fmt: skip
    assert len(set(first)) == 50


def test_the_questions_to_beethoven_are_many_and_in_five_categories():
    templates = read_templates(BEETHOVEN)
    assert list(templates.categories) == [
        "biographical", "musical", "historical", "creative", "personal",
    ]  # fmt: skip
    assert sum(map(len, templates.categories.values())) >= 30
    assert templates.combinations > 15_000
