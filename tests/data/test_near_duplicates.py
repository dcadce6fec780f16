import pytest

from prompt_distillation.data.near_duplicates import NearDuplicates, similarity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What do you think of Bach?", "what do you think  of BACH?"),
        ("How would you explain the Ninth Symphony to a monk?",
         "How would you explain the Ninth Symphony to a monk"),
    ],
)  # fmt: skip
def test_texts_that_differ_in_case_space_or_a_mark_are_near_duplicates(one, other):
    near = NearDuplicates(0.85)
    assert not near.add_if_new(one)
    assert near.add_if_new(other)


def test_another_name_makes_another_question():
    near = NearDuplicates(0.85)
    assert not near.add_if_new("How would you explain the Ninth Symphony to a monk?")
    assert not near.add_if_new("How would you explain the Eroica to a monk?")


@pytest.mark.parametrize("texts", [("a", "b"), ("音楽は何ですか", "音楽が好きですか"), ("", "a")])
def test_short_texts_and_texts_without_spaces_are_compared(texts):
    near = NearDuplicates(0.85)
    first, second = texts
    assert not near.add_if_new(first)
    assert not near.add_if_new(second)
    assert near.add_if_new(second)


def test_candidates_of_minhash_agree_with_comparing_all_pairs():
    texts = [f"sentence {number % 7} about subject {number % 13} and place {number % 5}"
             for number in range(80)]  # fmt: skip
    near, kept = NearDuplicates(0.85), []
    for text in texts:
        expected = any(similarity(text, other) >= 0.85 for other in kept)
        assert near.add_if_new(text) is expected
        if not expected:
            kept.append(text)
