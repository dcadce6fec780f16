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
    assert near.add_if_new(one) is None
    found = near.add_if_new(other)
    assert found.key == 0
    assert found.similarity == similarity(one, other)
    assert len(near) == 1


def test_another_name_makes_another_question():
    near = NearDuplicates(0.85)
    assert near.add_if_new("How would you explain the Ninth Symphony to a monk?") is None
    assert near.add_if_new("How would you explain the Eroica to a monk?") is None


def test_the_most_similar_of_the_earlier_texts_is_named():
    near = NearDuplicates(0.5)
    near.add("the quick brown fox jumps over the lazy dogs")
    near.add("the quick brown fox jumps over the lazy dog")
    assert near.find("the quick brown fox jumps over the lazy dog").key == 1


@pytest.mark.parametrize("texts", [("a", "b"), ("音楽は何ですか", "音楽が好きですか"), ("", "a")])
def test_short_texts_and_texts_without_spaces_are_compared(texts):
    near = NearDuplicates(0.85)
    first, second = texts
    assert near.add_if_new(first) is None
    assert near.add_if_new(second) is None
    assert near.add_if_new(second) is not None


def test_candidates_of_minhash_agree_with_comparing_all_pairs():
    texts = [f"sentence {number % 7} about subject {number % 13} and place {number % 5}"
             for number in range(80)]  # fmt: skip
    near, kept = NearDuplicates(0.85), []
    for text in texts:
        expected = any(similarity(text, other) >= 0.85 for other in kept)
        assert (near.add_if_new(text) is not None) is expected
        if not expected:
            kept.append(text)
