"""Rounds of improving a student: what is chosen, what never is, when it ends, and going on."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
from labelling.scripted import ScriptedEngine, answer, completion, dice, run_label

from prompt_distillation.api import train
from prompt_distillation.choosing import ask_student, uncertainty
from prompt_distillation.config.improve_config import ImproveConfig
from prompt_distillation.data.files import read_json, read_jsonl, sibling, write_jsonl
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.results import Prediction
from prompt_distillation.data.splits import input_key
from prompt_distillation.errors import (
    ConfigError,
    EngineError,
    InputError,
    OutputExistsError,
)
from prompt_distillation.evaluation.metrics import held_out_scores, paired_gain
from prompt_distillation.improving import improve
from prompt_distillation.tasks import load_task

FIRST = ("The ferry", "A parcel", "My luggage", "Some bicycle", "Our neighbour", "That violin")
SECOND = ("waits at the harbour", "was lost in winter", "costs far too much", "sings every night")
THIRD = ("since Monday.", "for no reason.", "because of rain.", "says the mayor.")
TEXTS = [" ".join(parts) for parts in product(FIRST, SECOND, THIRD)]
"""96 sentences, none nearly the same as another."""


def reply(request):
    """A label that follows from the text; to a request for new inputs, three new lines."""
    if "\n" not in request.messages[-1]["content"]:
        return answer("en" if "harbour" in request.messages[-1]["content"] else "de")
    number = dice(request)
    words = [f"{number // 7 ** (place + 1) % 9973} apples" for place in range(3)]
    return completion("So.\n</think>\n\n" + "\n".join(f"{one}, {one[::-1]}" for one in words))


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_models):
    """A student that was trained for two steps on half of the sentences, a third of them held out.

    The others are its pool, with some that must not be chosen: copies of held-out sentences, and
    one of a held-out group.
    """
    folder = tmp_path_factory.mktemp("start")
    write_jsonl(folder / "inputs.jsonl", ({"text": text} for text in TEXTS[::2]))
    labelled, _ = run_label(
        folder, ScriptedEngine(reply), input_file=folder / "inputs.jsonl", held_out=0.35
    )
    train(
        labelled, output_dir=folder / "student", model_name=str(tiny_models.student), max_steps=2,
        report_to="none", held_out_answers=0, eval_file="none", save_strategy="no",
        gradient_checkpointing=False, use_cpu=True,
    )  # fmt: skip
    held_out = held_out_of(folder)
    bad = [held_out[0].upper(), held_out[1] + "!", held_out[2] + " "]
    rows = [{"text": text} for text in (*bad, *TEXTS[1::2])]
    (group,) = {row["group"] for _, row in records_of(folder) if row["text"] == held_out[3]}
    rows.append({"text": "Of a held-out group, and like nothing else.", "group": group})
    write_jsonl(folder / "pool.jsonl", rows)
    return folder


def records_of(folder):
    return read_jsonl(sibling(folder / "out.jsonl", "records"))


def held_out_of(folder):
    return [row["text"] for _, row in records_of(folder) if row["held_out"]]


def run(start, folder, engine=None, **values):
    """Improve the student of ``start``; returns the result, and who was asked."""
    engine = engine or ScriptedEngine(reply)
    defaults = {
        "student_path": start / "student", "pool": start / "pool.jsonl", "output_dir": folder,
        "inputs_per_round": 6, "engine": "transformers", "max_rounds": 1,
    }  # fmt: skip
    return improve(ImproveConfig.of(**defaults | values), open_teacher=engine.open), engine


def texts_of(path):
    return [item.text for item in read_inputs(path)]


# --- a round


def test_a_round_labels_what_the_student_is_least_decided_on_and_nothing_held_out(start, tmp_path):
    result, engine = run(start, tmp_path / "out")

    folder, (_, one) = tmp_path / "out" / "round-1", result.rounds
    chosen, held_out = texts_of(folder / "inputs.jsonl"), held_out_of(start)
    unsure = uncertainty_of(start)
    pool = TEXTS[1::2]
    assert sorted(chosen) == sorted(sorted(pool, key=lambda text: -unsure[text])[:6])
    assert len(engine.requests) == one.asked == one.new_rows == one.old_rows == 6
    trained = texts_of(folder / "train.jsonl")
    assert trained[:6] == chosen
    assert set(trained[6:]) < set(TEXTS[::2]) - set(held_out)
    assert {input_key(text) for text in trained}.isdisjoint(map(input_key, held_out))
    for number in (0, 1):
        measured = read_json(tmp_path / "out" / f"round-{number}" / "evaluation.json")
        assert [item["text"] for item in measured["predictions"]] == held_out
        assert measured["overlap"]["texts"] == measured["overlap"]["groups"] == 0
    begun = read_json(folder / "student" / "training_manifest.json")["config"]
    assert begun["adapter_path"] == str(start / "student")
    assert read_json(tmp_path / "out" / "improve.json")["rounds"][1]["teacher_tokens"] == sum(
        len(reply(request).text.split()) for request in engine.requests
    )


def uncertainty_of(start):
    from prompt_distillation.config.evaluate_config import EvaluateConfig

    items = [item for item in read_inputs(start / "pool.jsonl") if item.text in TEXTS]
    config = EvaluateConfig.of(model_path=str(start / "student"), engine="transformers")
    asked = ask_student(config, load_task(Path("tasks/language")), items)
    return {item.text: uncertainty(made) for item, made in zip(items, asked, strict=True)}


def test_it_ends_where_the_gain_is_noise_and_goes_on_when_it_is_told_to(start, tmp_path):
    result, _ = run(start, tmp_path, max_rounds=9, select="random")
    assert len(result.rounds) == 2
    assert result.stopped == "the held-out gain is inside the noise"

    again, engine = run(start, tmp_path, max_rounds=2, patience=9, select="random")
    assert again.stopped == "--max_rounds 2 is reached"
    assert again.rounds[:2] == result.rounds
    assert len(engine.requests) == 6
    asked = [texts_of(tmp_path / f"round-{number}" / "inputs.jsonl") for number in (1, 2)]
    assert len({*asked[0], *asked[1]}) == 12

    same, engine = run(start, tmp_path, max_rounds=2, patience=9, select="random")
    assert same == again
    assert engine.opened == 0

    with pytest.raises(OutputExistsError, match=r"select was 'random', is 'uncertain'"):
        run(start, tmp_path)


def test_a_run_that_was_stopped_goes_on_and_nothing_is_paid_for_twice(start, tmp_path):
    def fails(request):
        if len(first.requests) == 4:
            raise EngineError("the machine is gone")
        return reply(request)

    first = ScriptedEngine(fails, concurrency=1)
    with pytest.raises(EngineError, match="the machine is gone"):
        run(start, tmp_path / "stopped", first)
    stopped, second = run(start, tmp_path / "stopped")
    assert len(second.requests) == 3

    whole, _ = run(start, tmp_path / "whole")
    assert stopped.rounds[1].score == whole.rounds[1].score
    for name in ("inputs.jsonl", "train.jsonl"):
        files = [tmp_path / kind / "round-1" / name for kind in ("stopped", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_budget_of_teacher_tokens_is_kept(start, tmp_path):
    each = len(answer("en").text.split())
    result, engine = run(
        start, tmp_path, max_teacher_tokens=3 * each + 1, max_rounds=9, patience=9, select="random"
    )
    assert result.stopped == f"--max_teacher_tokens {3 * each + 1} is spent"
    assert [one.asked for one in result.rounds] == [0, 3]
    assert len(engine.requests) == 3


def test_a_pool_without_anything_new_ends_at_once(start, tmp_path):
    result, engine = run(start, tmp_path, pool=start / "inputs.jsonl")
    assert result.stopped == "no input is left to choose"
    assert len(result.rounds) == 1
    assert engine.opened == 0


def test_the_teacher_writes_new_inputs_like_the_hardest(start, tmp_path):
    result, engine = run(start, tmp_path, pool=None, write_inputs=8, inputs_per_round=4)
    assert result.rounds[1].asked == 4
    assert all("apples" in text for text in texts_of(tmp_path / "round-1" / "inputs.jsonl"))
    examples = texts_of(tmp_path / "round-1" / "examples.jsonl")
    assert set(examples) <= set(TEXTS[::2]) - set(held_out_of(start))
    spent = sum(len(reply(request).text.split()) for request in engine.requests)
    assert result.rounds[1].teacher_tokens == spent


# --- what it is worth


def test_a_gain_is_paired_by_input():
    def answered(index, predicted):
        return Prediction(
            index=index, text="text", group="g", predicted=predicted, ground_truth="a",
            correct=predicted == "a",
        )  # fmt: skip

    right = [answered(index, "a") for index in range(40)]
    wrong = [answered(index, "b") for index in range(10)]
    before, after = held_out_scores([*wrong, *right[10:]]), held_out_scores(right)
    gain = paired_gain(before, after)
    assert gain.value == 0.25
    assert 0 < gain.interval.low < 0.25 < gain.interval.high
    nothing = paired_gain(after, after)
    assert (nothing.value, nothing.interval.low) == (0.0, 0.0)


# --- what cannot be


def test_nothing_to_choose_from():
    with pytest.raises(ConfigError, match="--pool FILE"):
        ImproveConfig.of(student_path="x")


def test_a_server_cannot_have_a_student_a_round(tmp_path):
    with pytest.raises(ConfigError, match="a student of its own"):
        ImproveConfig.of(pool=tmp_path, engine="server", server_url="http://localhost:1/v1")


def test_a_folder_that_is_no_training_run(start, tmp_path):
    with pytest.raises(InputError, match=r"training_manifest\.json is not there"):
        run(start, tmp_path, student_path=tmp_path)


def test_files_of_someone_else_stay(start, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="was not written by this command"):
        run(start, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_dataset_with_nothing_held_out(start, tmp_path):
    copied = shutil.copytree(start, tmp_path / "start")
    rows = [row | {"held_out": False} for _, row in records_of(copied)]
    write_jsonl(sibling(copied / "out.jsonl", "records"), rows)
    with pytest.raises(InputError, match="no held-out inputs"):
        run(start, tmp_path / "out", train_data_file=copied / "out.jsonl")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("out.manifest.json", {"config": None}, "not a manifest of this version"),
        ("student/training_manifest.json", {"config": {"method": "soft"}}, "--method soft"),
    ],
)
def test_manifests_that_cannot_be_used(start, tmp_path, file, change, message):
    copied = shutil.copytree(start, tmp_path / "start")
    (copied / file).write_text(json.dumps(read_json(copied / file) | change))
    with pytest.raises((ConfigError, InputError), match=message):
        run(copied, tmp_path / "out", train_data_file=copied / "out.jsonl")
