import json
from pathlib import Path

import pytest

from prompt_distillation.data.inputs import Input
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.selection import read_labelled_data, select

INPUTS = [
    Input(index=i, text=f"Sentence number {i}", group=f"block-{i // 3}", gold="en")
    for i in range(300)
]


def write_dataset(folder: Path, inputs: list[Input], *, share: float = 0.2, seed: int = 0) -> Path:
    path = folder / "lang.jsonl"

    def chat(item: Input) -> str:
        messages = [
            {"role": "user", "content": item.text},
            {"role": "assistant", "content": "de" if item.index == 0 else "en"},
        ]
        return json.dumps({"messages": messages}) + "\n"

    held = [is_held_out(item.group, share=share, seed=seed) for item in inputs]
    train = [chat(item) for item, kept in zip(inputs, held, strict=True) if not kept]
    heldout = [chat(item) for item, kept in zip(inputs, held, strict=True) if kept]
    path.write_text("".join(train))
    path.with_name("lang.heldout.jsonl").write_text("".join(heldout))
    path.with_name("lang.manifest.json").write_text(
        json.dumps({"held_out": {"share": share, "seed": seed}})
    )
    return path


def test_held_out_takes_the_groups_that_training_left_out(tmp_path: Path) -> None:
    training = read_labelled_data(write_dataset(tmp_path, INPUTS))

    selection = select(INPUTS, training, split="held_out", max_samples=None, truth=None)

    assert 30 <= len(selection.items) <= 90
    assert selection.overlap.checked
    assert (selection.overlap.texts, selection.overlap.groups) == (0, 0)
    assert all(item.trained_on is False for item in selection.items)
    assert [item.input.index for item in selection.items] == sorted(
        item.input.index for item in selection.items
    )


def test_the_whole_file_says_what_was_trained_on_by_text_and_by_group(tmp_path: Path) -> None:
    # Every third sentence is trained on: the other two of its group share only the group.
    training = read_labelled_data(write_dataset(tmp_path, INPUTS[::3], share=0.0))

    selection = select(INPUTS, training, split="all", max_samples=None, truth=None)

    assert (selection.overlap.texts, selection.overlap.groups) == (100, 300)


def test_overlap_sees_through_case_and_spaces(tmp_path: Path) -> None:
    training = read_labelled_data(write_dataset(tmp_path, INPUTS[:3], share=0.0))
    other = Input(index=0, text="SENTENCE   number 1", group="elsewhere", gold="en")

    selection = select([other], training, split="all", max_samples=None, truth=None)

    assert selection.items[0].trained_on is True


def test_missing_training_data_is_said_not_failed(tmp_path: Path) -> None:
    training = read_labelled_data(tmp_path / "none.jsonl")

    selection = select(INPUTS, training, split="held_out", max_samples=None, truth=None)

    assert not selection.overlap.checked
    assert selection.items[0].trained_on is None


def test_max_samples_takes_the_first_of_the_split(tmp_path: Path) -> None:
    training = read_labelled_data(write_dataset(tmp_path, INPUTS))

    whole = select(INPUTS, training, split="held_out", max_samples=None, truth=None)
    part = select(INPUTS, training, split="held_out", max_samples=7, truth=None)

    assert part.items == whole.items[:7]


def test_truth_is_the_teacher_where_no_gold_is_known(tmp_path: Path) -> None:
    training = read_labelled_data(write_dataset(tmp_path, INPUTS))
    unlabelled = [Input(index=i.index, text=i.text, group=i.group) for i in INPUTS]

    selection = select(unlabelled, training, split="all", max_samples=None, truth=None)

    assert selection.truth == "teacher"
    assert selection.items[0].truth == "de"
    assert selection.items[1].truth == "en"


def test_an_empty_split_says_what_to_do(tmp_path: Path) -> None:
    training = read_labelled_data(write_dataset(tmp_path, INPUTS, share=0.0))

    with pytest.raises(InputError, match=r"larger --held_out, .* --split all .* trained on"):
        select(INPUTS, training, split="held_out", max_samples=None, truth=None)


def record(item: Input, **changes: object) -> str:
    row = {
        "index": item.index, "text": item.text, "history": [], "group": item.group,
        "gold": item.gold, "held_out": False, "answer": "en", "teacher_answer": "en",
        "prompt_tokens": 2000, "completion_tokens": 90,
    }  # fmt: skip
    return json.dumps(row | changes) + "\n"


def test_the_teacher_is_what_it_said_itself(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, INPUTS[:3], share=0.0)
    corrected = record(INPUTS[0], answer="en", teacher_answer="de")
    rejected = record(INPUTS[1], answer=None, teacher_answer=None)
    held_out = record(INPUTS[3], held_out=True)
    path.with_name("lang.records.jsonl").write_text(corrected + rejected + held_out)

    training = read_labelled_data(path)
    selection = select(INPUTS[:6], training, split="all", max_samples=None, truth="teacher")

    assert [item.truth for item in selection.items] == ["de", None, "en", "en", None, None]
    assert [item.teacher is not None for item in selection.items] == [True] * 4 + [False] * 2
    assert training.groups == {INPUTS[0].group}


@pytest.mark.parametrize("content", ['{"text": "x"}\n', "[]\n", "{nonsense\n"])
def test_damaged_records_are_named(tmp_path: Path, content: str) -> None:
    path = write_dataset(tmp_path, INPUTS[:3], share=0.0)
    path.with_name("lang.records.jsonl").write_text(content)

    with pytest.raises(InputError, match=r"lang\.records\.jsonl, line 1"):
        read_labelled_data(path)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, INPUTS[:3])
    path.with_name("lang.manifest.json").write_text('{"held_out": 0.1}')

    with pytest.raises(InputError, match=r"lang\.manifest\.json.*share"):
        read_labelled_data(path)
