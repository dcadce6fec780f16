import json

import pytest

from prompt_distillation.config.inspect_config import InspectConfig
from prompt_distillation.data.inspection import (
    HELD_OUT,
    INPUTS,
    TRAINING,
    inspect,
    lengths_of,
    script_of,
)
from prompt_distillation.errors import ConfigError, InputError, ModelError

KEY = "sk-" + "a1B2c3D4" * 4
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()  # noqa: SIM905


def chat(text, answer):
    return {"messages": [{"role": "user", "content": text},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(count):
    return [f"{WORDS[n % 14]} {WORDS[n // 14 % 14]} or {WORDS[n * 5 % 14]} times?"
            for n in range(count)]  # fmt: skip


def inspect_rows(folder, rows, **settings):
    return inspect(InspectConfig.of(dataset=write(folder / "data.jsonl", rows), **settings))


def failed(found):
    return {check.name: check.found for check in found.failed}


def test_clean_rows_pass_and_are_counted(tmp_path):
    found = inspect_rows(tmp_path, [chat(text, f"I say {text}") for text in questions(40)])
    assert failed(found) == {}
    (part,) = found.parts
    assert (part.name, part.rows, part.duplicates) == (TRAINING, 40, 0)
    assert part.scripts == {"Latin": 40}
    assert part.answer_lengths.median == part.text_lengths.median + 2
    assert len(found.examples) == 10


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (chat("Who?", ""), "empty answers"),
        (chat("Who?", " \n"), "empty answers"),
        ({"messages": [{"role": "user", "content": "Who?"}]}, "rows that are no conversation"),
        ({"text": "Who?"}, "rows that are no conversation"),
        (chat("Who?", f"Use {KEY} for it"), "keys and tokens"),
        (chat(f"Is {KEY} right?", "yes"), "keys and tokens"),
    ],
)
def test_one_such_row_is_one_too_many(tmp_path, row, name):
    clean = [chat(text, "yes") for text in questions(40)]
    found = inspect_rows(tmp_path, [*clean, row])
    assert failed(found) == {name: 1}
    assert ", row 41" in found.failed[0].places[0] or "line 41" in found.failed[0].places[0]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide this.",
        "As an AI language model, I have no feelings.",
        "I’m unable to answer.",
    ],
)
def test_refusals_are_counted(tmp_path, answer):
    rows = [chat(text, answer if n < 4 else "Gladly.") for n, text in enumerate(questions(40))]
    assert failed(inspect_rows(tmp_path, rows)) == {"refusals": 4}


@pytest.mark.parametrize(
    "answer", ["I can't stand Rossini.", "Sorry? Speak up.", "I am an old man"]
)
def test_a_character_with_a_temper_does_not_refuse(tmp_path, answer):
    rows = [chat(text, answer) for text in questions(40)]
    assert failed(inspect_rows(tmp_path, rows)) == {}


@pytest.mark.parametrize(
    "answer",
    ["so.</think> yes", "yes<|im_end|>", "Well: " + " ".join(WORDS) + "."],
)
def test_marks_and_words_of_the_prompt_are_leaks(tmp_path, answer):
    task = tmp_path / "task"
    task.mkdir()
    (task / "task.yaml").write_text("kind: text")
    (task / "prompt.md").write_text("Count like this: " + ", ".join(WORDS).upper())
    rows = [chat(text, answer if n < 3 else "yes") for n, text in enumerate(questions(40))]
    assert failed(inspect_rows(tmp_path, rows, task=task)) == {"leaks": 3}


def test_the_same_text_with_another_answer_contradicts(tmp_path):
    rows = [chat(text, "yes") for text in questions(40)]
    found = inspect_rows(tmp_path, [*rows, chat(questions(1)[0].upper(), "no")])
    assert failed(found) == {"rows that contradict another": 1}
    assert found.parts[0].duplicates == 1


def test_held_out_rows_that_training_saw_are_found(tmp_path):
    texts = questions(40)
    seen = [chat(texts[0] + "!", "yes"), chat("Something else entirely, asked here", "yes")]
    write(tmp_path / "data.heldout.jsonl", seen)
    found = inspect_rows(tmp_path, [chat(text, "yes") for text in texts])
    assert [part.name for part in found.parts] == [TRAINING, HELD_OUT]
    assert failed(found) == {"held-out inputs seen in training": 1}


def test_categories_and_groups_come_from_the_inputs(tmp_path):
    rows = [{"text": text, "category": "odd" if n % 2 else "even", "group": str(n % 4)}
            for n, text in enumerate(questions(20))]  # fmt: skip
    inputs = write(tmp_path / "inputs.jsonl", rows)
    found = inspect_rows(tmp_path, [chat(text, "yes") for text in questions(9)], input_file=inputs)
    parts = {part.name: part for part in found.parts}
    assert parts[INPUTS].categories == {"even": 10, "odd": 10}
    assert parts[TRAINING].categories == {"even": 5, "odd": 4}
    assert parts[TRAINING].groups == 4


def test_duplicates_among_inputs_fail_above_the_limit(tmp_path):
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("\n".join([*questions(20), *questions(5)]))
    found = inspect(InspectConfig.of(input_file=inputs))
    assert failed(found) == {"duplicates among the inputs": 5}
    assert failed(inspect(InspectConfig.of(input_file=inputs, max_duplicates=0.2))) == {}


def test_lengths_in_tokens_show_rows_that_training_would_leave_out(tmp_path, tiny_models):
    rows = [chat(text, "x" * (90 if n < 4 else 3)) for n, text in enumerate(questions(40))]
    found = inspect_rows(tmp_path, rows, model_name=tiny_models.student, max_length=80)
    assert found.parts[0].answer_lengths.unit == "tokens"
    assert found.parts[0].answer_lengths.longest == 90
    assert failed(found) == {"rows over 80 tokens": 4}


def test_a_secret_is_not_shown(tmp_path):
    found = inspect_rows(tmp_path, [chat("Who?", f"It is {KEY}.")])
    assert found.examples[0].answer == "It is [secret]."


def test_the_drawn_rows_depend_on_the_seed_only(tmp_path):
    rows = [chat(text, "yes") for text in questions(40)]
    first, same, other = (inspect_rows(tmp_path, rows, seed=seed).examples for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(
    ("text", "script"),
    [("日本語です", "Han"), ("مرحبا", "Arabic"), ("नमस्ते", "Devanagari"), ("Ωmega", "Latin"),
     ("12:30!", "no letters")],
)  # fmt: skip
def test_scripts(text, script):
    assert script_of(text) == script


def test_lengths_of_empty_texts():
    assert lengths_of([0, 0], unit="words").bins == [("0", 2)]


def test_what_cannot_be_inspected_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="nothing to inspect"):
        InspectConfig.of()
    with pytest.raises(InputError, match="no such file"):
        inspect(InspectConfig.of(dataset=tmp_path / "absent.jsonl"))
    with pytest.raises(InputError, match="no inputs or rows"):
        inspect_rows(tmp_path, [])
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        inspect_rows(tmp_path, [chat("Who?", "I")], model_name=str(tmp_path))
