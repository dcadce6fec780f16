"""Which inputs are the same, which stay together, and which are held out."""

from pathlib import Path

import pytest

from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.splits import (
    group_of_text,
    input_key,
    is_held_out,
    normalise,
    shard_of,
)

ROOT = Path(__file__).parents[2]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("one", "other"),
    [("Hallo  Welt", " hallo\u00a0WELT\n"), ("ｆｕｌｌ", "full"), ("é", "e\u0301"), ("ß", "ss")],
)
def test_near_identical_texts_are_one(one, other):
    assert normalise(one) == normalise(other)
    assert group_of_text(one) == group_of_text(other)
    assert shard_of(one, num_shards=1000) == shard_of(other, num_shards=1000)


def test_different_texts_are_two():
    assert group_of_text("Hallo Welt") != group_of_text("Hallo, Welt")


def test_inputs_cut_from_one_conversation_share_its_group():
    talk = [turn("user", "Hallo Welt"), turn("assistant", "Ja?"), turn("user", "Wo?")]
    longer = [*talk, turn("assistant", "Dort."), turn("user", "Wie weit?")]
    groups = {group_of_text(turns[-1]["content"], turns[:-1]) for turns in (talk[:1], talk, longer)}
    assert groups == {group_of_text("hallo  welt")}


def test_hashes_are_what_they_were():
    """Pinned: an interrupted run, its shards and its evaluation must agree across versions."""
    assert group_of_text("Hallo Welt") == "028fb9cd289c1066"
    assert [shard_of(text, num_shards=8) for text in "abcdefgh"] == [4, 0, 0, 2, 6, 3, 3, 6]
    held_out = [n for n in range(40) if is_held_out(f"block-{n:03}", share=0.1, seed=0)]
    assert held_out == [4, 6, 18, 19, 22, 25, 27]
    other_seed = [n for n in range(40) if is_held_out(f"block-{n:03}", share=0.1, seed=1)]
    assert other_seed == [8, 24, 27, 31, 32]


def test_held_out_shares():
    groups = [f"g{n}" for n in range(5000)]
    assert not any(is_held_out(group, share=0.0, seed=0) for group in groups)
    assert all(is_held_out(group, share=1.0, seed=0) for group in groups)
    held_out = {group for group in groups if is_held_out(group, share=0.1, seed=0)}
    assert 0.08 < len(held_out) / len(groups) < 0.12
    # A larger share keeps what a smaller one held out: widening it never trains on a test input.
    assert held_out <= {group for group in groups if is_held_out(group, share=0.2, seed=0)}


def test_shards_are_even_and_complete():
    counts = [0] * 4
    for n in range(4000):
        counts[shard_of(f"text {n}", num_shards=4)] += 1
    assert all(900 < count < 1100 for count in counts)
    assert shard_of("anything", num_shards=1) == 0


def test_shards_do_not_follow_the_split():
    """Else one shard would hold every held-out input."""
    groups = [group_of_text(f"text {n}") for n in range(2000)]
    held_out = [is_held_out(group, share=0.5, seed=0) for group in groups]
    second = [shard_of(f"text {n}", num_shards=2) == 1 for n in range(2000)]
    assert 900 < sum(a == b for a, b in zip(held_out, second, strict=True)) < 1100


def test_a_split_never_cuts_a_group():
    inputs = list(read_inputs(ROOT / "example-data" / "multilingual.txt"))
    sides = {}
    for item in inputs:
        sides.setdefault(item.group, set()).add(is_held_out(item.group, share=0.1, seed=0))
    assert all(len(side) == 1 for side in sides.values())


def test_the_same_input_has_one_key_and_another_has_another():
    question, reply = turn("user", "Sure?"), turn("assistant", "Sure?")
    key = input_key("Yes", [question])
    assert input_key(" YES", [question]) == key
    assert input_key("Yes", [{"content": "Sure?", "role": "user"}]) == key
    others = [
        input_key("Yes"),
        input_key("Yes", [reply]),  # the same words, said by the other side
        input_key("Sure?\nYes"),
        input_key('[{"role":"user","content":"Sure?"}]\0Yes'),
        input_key("Yes", [question], settings="other"),
    ]
    assert len({key, *others}) == 6


def test_exact_keys_tell_case_and_spaces_apart():
    texts = ("Yes", "yes", "yes ")
    assert len({input_key(text, duplicates="exact") for text in texts}) == 3
    assert len({input_key(text) for text in texts}) == 1


def test_keys_are_what_they_were():
    """Pinned: journals of earlier versions are found again by them."""
    assert input_key("Hallo  Welt", settings="a").hex() == "c56cdbdf6e8e4200d835da4ee2f7759d"
    assert input_key("Ja", [turn("user", "Na?")]).hex() == "ab53e19dc8888969618b4d87eb218c38"
