"""The example data is what DESIGN and the prompt say: shape, scripts, labels, no doubles."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.splits import is_held_out, normalise
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "example-data"
LANGUAGES = [
    "ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh",
]  # fmt: skip
BLOCKS = 133
CASES = 106
LABEL_OF = {"bg": "ru", "sw": "ot", "th": "ot"}
SCRIPT_OF = {
    "ar": "ARABIC", "ur": "ARABIC", "bg": "CYRILLIC", "ru": "CYRILLIC", "el": "GREEK",
    "hi": "DEVANAGARI", "th": "THAI", "zh": "CJK",
}  # fmt: skip
WITHOUT_SPACES = {"th", "zh"}
LABEL_COUNTS = {
    "ar": 138, "de": 140, "el": 137, "en": 139, "es": 140, "fr": 139, "hi": 136, "ot": 308,
    "ru": 273, "tr": 138, "ur": 137, "vi": 138, "zh": 138,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs():
    return list(read_inputs(FOLDER / "multilingual.txt"))


@pytest.fixture(scope="module")
def gold_rows():
    lines = (FOLDER / "multilingual.gold.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def sentences(inputs, gold_rows):
    """``(language, input)`` of the aligned part."""
    return list(zip((row["language"] for row in gold_rows[: 15 * BLOCKS]), inputs, strict=False))


def script_of(character):
    """First word of a letter's name in Unicode, e.g. LATIN; None for what is no letter."""
    if not character.isalpha():
        return None
    return unicodedata.name(character).split()[0]


def test_one_input_a_line(inputs):
    lines = (FOLDER / "multilingual.txt").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(inputs) == 15 * BLOCKS + CASES == 2101
    assert lines == [item.text for item in inputs]
    assert all(line == line.strip() for line in lines)


def test_text_is_in_composed_form_without_control_characters(inputs):
    for item in inputs:
        assert unicodedata.is_normalized("NFC", item.text), item.text
        # Cf would forbid the joiners that Persian and emojis need.
        assert not any(unicodedata.category(char) in {"Cc", "Co", "Cs", "Cn"} for char in item.text)


def test_no_two_inputs_are_the_same_after_folding(inputs):
    counts = Counter(normalise(item.text) for item in inputs)
    assert [text for text, count in counts.items() if count > 1] == []


def test_blocks_of_fifteen_languages_in_one_order(gold_rows):
    for block in range(BLOCKS):
        rows = gold_rows[15 * block : 15 * block + 15]
        assert [row["language"] for row in rows] == LANGUAGES
        assert {row["group"] for row in rows} == {f"block-{block + 1:03}"}


def test_each_case_is_a_group_of_its_own_and_says_its_kind(gold_rows):
    cases = gold_rows[15 * BLOCKS :]
    assert [row["group"] for row in cases] == [f"case-{n:03}" for n in range(1, CASES + 1)]
    assert all(row["kind"] for row in cases)


def test_labels_follow_from_the_languages(sentences):
    for language, item in sentences:
        assert item.gold == LABEL_OF.get(language, language), item.text


def test_gold_labels_are_the_tasks(inputs):
    labels = load_task(ROOT / "tasks" / "language").labels
    assert {item.gold for item in inputs} == set(labels)


def test_label_counts(inputs):
    assert dict(sorted(Counter(item.gold for item in inputs).items())) == LABEL_COUNTS


def test_each_sentence_is_in_its_languages_script(sentences):
    for language, item in sentences:
        scripts = Counter(filter(None, map(script_of, item.text)))
        wanted = SCRIPT_OF.get(language, "LATIN")
        assert scripts.most_common(1)[0][0] == wanted, item.text
        # Latin names (a firm, a unit) may stand in any sentence; no third script may.
        assert set(scripts) <= {wanted, "LATIN"}, item.text


def test_urdu_has_letters_that_arabic_lacks(sentences):
    """What tells the two apart by the prompt's rule."""
    urdu_only = set("ٹڈڑںےہھ")
    assert all(urdu_only & set(item.text) for language, item in sentences if language == "ur")
    assert not any(urdu_only & set(item.text) for language, item in sentences if language == "ar")


def test_sentences_have_three_to_forty_words(sentences):
    for language, item in sentences:
        if language not in WITHOUT_SPACES:
            assert 3 <= len(item.text.split()) <= 40, item.text


def test_sentences_without_spaces_have_a_sentences_length(sentences):
    for language, item in sentences:
        if language in WITHOUT_SPACES:
            # A Thai word has some five letters, a Chinese one two characters.
            assert 4 <= len(item.text) <= (220 if language == "th" else 80), item.text


def test_the_held_out_part_is_large_enough_and_has_every_label(inputs):
    held_out = [item for item in inputs if is_held_out(item.group, share=0.1, seed=0)]
    assert len(held_out) >= 200
    assert {item.gold for item in held_out} == {item.gold for item in inputs}
