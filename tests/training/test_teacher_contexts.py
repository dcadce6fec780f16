"""What the teacher reads before an answer, from what it wrote when it labelled the input."""

import json

import pytest
from training.tiny_student import LABELS, build_tokenizer

from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.tasks import load_task
from prompt_distillation.training.teacher_contexts import (
    TeacherContext,
    check_lengths,
    check_vocabularies,
    encode_context,
    prompting_task,
    twins_with_space,
    what_was_written,
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "prompt.md").write_text("Which language?\nFinal Answer: en")
    (folder / "task.yaml").write_text(
        f"name: tiny\nkind: classification\nprompt_file: prompt.md\nlabels: {list(LABELS)}\n"
        "answer_pattern: 'Final Answer:\\s*(\\w+)'\n"
    )
    return load_task(folder)


def record(text, *, answer="de", reasoning="Umlauts.", **more):
    outputs = [{"answer": answer, "text": text}]
    made = {"teacher_answer": answer, "answer": answer, "reasoning": reasoning}
    return {**made, "outputs": outputs, **more}


@pytest.mark.parametrize(
    ("text", "before", "goes_on"),
    [
        (
            "Umlauts.\n</think>\n\nFinal Answer: de",
            "Umlauts.\n</think>\n\nFinal Answer: ",
            False,
        ),
        ("Umlauts.</think>**Final Answer: de**", "Umlauts.</think>**Final Answer: ", True),
        (
            "Umlauts.</think>de, so\nFinal Answer: de",
            "Umlauts.</think>de, so\nFinal Answer: ",
            False,
        ),
        ("Umlauts.</think>de", "Umlauts.</think>", False),
        # A server delivers the reasoning in a field of its own.
        ("Final Answer: de", "Umlauts.\n</think>\n\nFinal Answer: ", False),
    ],
)
def test_the_lead_in_is_what_stands_before_the_answer(text, before, goes_on, task):
    written = what_was_written(record(text), task, with_reasoning=True)
    assert (written.before, written.answer, written.goes_on) == (before, "de", goes_on)


def test_reasoning_can_be_left_out(task):
    text = "Umlauts.\n</think>\n\nFinal Answer: de"
    written = what_was_written(record(text), task, with_reasoning=False)
    assert written.before == "Final Answer: "


def test_the_vote_whose_reasoning_was_recorded_is_read(task):
    outputs = [
        {"answer": "fr", "text": "Accents.</think>Final Answer: fr"},
        {"answer": "de", "text": "A guess.</think>Final Answer: de"},
        {"answer": "de", "text": "Umlauts.</think>Final Answer: de"},
    ]
    written = what_was_written(record("", outputs=outputs), task, with_reasoning=True)
    assert written.before == "Umlauts.</think>Final Answer: "


def test_an_answer_that_a_person_corrected_is_not_the_teachers(task):
    assert (
        what_was_written(record("de", answer="de") | {"answer": "fr"}, task, with_reasoning=True)
        is None
    )


def test_the_students_tokens_follow_the_context(task):
    tokenizer = build_tokenizer()
    encoder = PromptEncoder(tokenizer, model="tiny")
    messages = ({"role": "system", "content": "Which?"}, {"role": "user", "content": "Wo?"})
    answer = tokenizer.encode("de")
    written = what_was_written(
        record("Umlauts.</think>Final Answer: de"), task, with_reasoning=True
    )
    context = encode_context(encoder, messages, written, [*answer, 2])
    first = answer[0]
    if context.spaced:
        first = twins_with_space(tokenizer, len(tokenizer))[first]
    text = tokenizer.decode([*context.ids, first, *answer[1:]])
    # The template does not open the reasoning, so it is opened here.
    assert text.endswith("<think>\nUmlauts.</think>Final Answer: de")
    assert text.startswith("<|im_start|>system\nWhich?<|im_end|>")
    assert context.ends


def test_every_token_and_its_twin_change_places():
    tokenizer = build_tokenizer()
    twins = twins_with_space(tokenizer, len(tokenizer) + 3)
    assert [twins[twin] for twin in twins] == list(range(len(tokenizer) + 3))
    moved = [token for token, twin in enumerate(twins) if token != twin]
    assert moved
    for token in moved:
        one, other = tokenizer.decode([token]), tokenizer.decode([twins[token]])
        assert one == f" {other}" or other == f" {one}"


def test_what_does_not_fit_is_an_error_and_is_never_cut():
    contexts = {
        "rows.jsonl, line 1": TeacherContext([1] * 10, spaced=False, ends=True),
        "rows.jsonl, line 2": TeacherContext([1] * 30, spaced=False, ends=True),
    }
    check_lengths(contexts, answer_tokens=2, limit=32)
    with pytest.raises(
        InputError, match=r"line 2: the teacher would read 30 tokens .* is 31; 1 of 2"
    ):
        check_lengths(contexts, answer_tokens=2, limit=31)


def test_another_vocabulary_is_an_error():
    ours, theirs = build_tokenizer(), build_tokenizer()
    check_vocabularies(ours, theirs, name="teacher")
    theirs.add_tokens(["zzz"])
    check_vocabularies(ours, theirs, name="teacher")  # more tokens than ours do no harm
    with pytest.raises(ConfigError, match=r"--teacher_model teacher: its vocabulary .* 'zzz'"):
        check_vocabularies(theirs, ours, name="teacher")


def test_a_prompt_that_has_changed_since_labelling_is_an_error(task, tmp_path):
    manifest = tmp_path / "rows.manifest.json"
    made = {"path": str(task.path), "prompt_sha256": "0"}
    manifest.write_text(json.dumps({"task": made}))
    with pytest.raises(ConfigError, match="is not the one that the dataset was labelled with"):
        prompting_task(manifest, None)
    with pytest.raises(ConfigError, match="pass --task"):
        prompting_task(tmp_path / "none.json", None)
    assert prompting_task(tmp_path / "none.json", str(task.path)).name == "tiny"
