from pathlib import Path

import pytest

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks import RejectReason, load_task

ROOT = Path(__file__).parents[2]
LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "hi", "ru", "tr", "ur", "vi", "zh", "ot")

CLASSIFICATION = """
name: tone
kind: classification
labels: {pos: positive, neg: negative}
answer_pattern: 'Final Answer:\\s*(\\w+)'
"""


@pytest.fixture(scope="module")
def language():
    return load_task(ROOT / "tasks" / "language")


@pytest.fixture
def folder(tmp_path):
    """A task folder; the test overwrites what it wants broken."""
    (tmp_path / "task.yaml").write_text(CLASSIFICATION)
    (tmp_path / "prompt.md").write_text("Judge the tone.\n")
    return tmp_path


def read(task, text, *, finish_reason="stop", thinking=True, reasoning=None):
    return task.parse(text, finish_reason=finish_reason, thinking=thinking, reasoning=reasoning)


# --- reading answers ---------------------------------------------------------------------------


def test_the_answer_follows_the_closing_tag(language):
    answer = read(language, "Tones and đ: Vietnamese.\n</think>\n\nFinal Answer: vi")
    assert (answer.text, answer.reject_reason) == ("vi", None)
    assert answer.reasoning == "Tones and đ: Vietnamese."


@pytest.mark.parametrize(
    "reasoning",
    [
        "Could be Final Answer: hi, by the script. Or Final Answer: el? I should look again",
        "hi",
        "<think>\nFinal Answer: hi",
    ],
)
@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("stop", RejectReason.NO_END_OF_THINKING), ("length", RejectReason.LENGTH)],
)
def test_a_label_in_unpaired_reasoning_is_never_read(language, reasoning, finish_reason, reason):
    answer = read(language, reasoning, finish_reason=finish_reason)
    assert answer.text is None
    assert answer.reject_reason is reason
    assert answer.reasoning


def test_a_label_in_reasoning_does_not_stand_in_for_a_missing_one(language):
    answer = read(language, "Final Answer: hi is tempting.</think>\nThis is Thai, I think.")
    assert (answer.text, answer.reject_reason) == (None, RejectReason.NO_LABEL)


def test_an_opened_and_never_closed_thought_is_no_answer_of_a_plain_model(language):
    answer = read(language, "<think>Perhaps Final Answer: fr", thinking=False)
    assert (answer.text, answer.reject_reason) == (None, RejectReason.NO_END_OF_THINKING)
    assert answer.reasoning == "Perhaps Final Answer: fr"


def test_only_what_follows_the_last_closing_tag_counts(language):
    text = "one</think>Final Answer: fr\nno, wait\n</think>Final Answer: es"
    answer = read(language, text)
    assert answer.text == "es"
    assert "Final Answer: fr" in answer.reasoning


def test_the_last_match_of_the_pattern_wins(language):
    text = "</think>Not Final Answer: fr, the accents mislead.\nFinal Answer: es"
    assert read(language, text).text == "es"


@pytest.mark.parametrize("text", ["</think>Final Answer: es", "</think>es"])
def test_an_answer_cut_by_length_is_none_even_if_it_shows_a_label(language, text):
    answer = read(language, text, finish_reason="length")
    assert (answer.text, answer.reject_reason) == (None, RejectReason.LENGTH)


@pytest.mark.parametrize("label", ["th", "ES", "unknown"])
def test_a_label_outside_the_set_is_no_answer(language, label):
    answer = read(language, f"</think>Final Answer: {label}")
    assert (answer.text, answer.reject_reason) == (None, RejectReason.UNKNOWN_LABEL)


@pytest.mark.parametrize("text", ["de", " de\n", "Final Answer: de"])
def test_a_plain_model_may_answer_with_the_bare_label(language, text):
    assert read(language, text, thinking=False).text == "de"


@pytest.mark.parametrize("text", ["de.", "It is de", "deutsch", "in de"])
def test_a_label_inside_other_words_is_not_read(language, text):
    answer = read(language, text, thinking=False)
    assert (answer.text, answer.reject_reason) == (None, RejectReason.NO_LABEL)


@pytest.mark.parametrize("text", ["</think>", "thoughts</think> \n "])
def test_nothing_after_the_thought_is_an_empty_answer(language, text):
    assert read(language, text).reject_reason is RejectReason.EMPTY


def test_reasoning_in_a_field_of_its_own_is_kept_and_never_searched(language):
    answer = read(language, "Final Answer: tr", reasoning="Final Answer: de? No.")
    assert (answer.text, answer.reasoning) == ("tr", "Final Answer: de? No.")
    answer = read(language, "", reasoning="Final Answer: de? No.")
    assert (answer.text, answer.reject_reason) == (None, RejectReason.EMPTY)


def test_a_tag_left_in_a_servers_text_still_ends_the_reasoning(language):
    answer = read(language, "Final Answer: de?</think>Final Answer: tr", reasoning="Hm.")
    assert answer.text == "tr"
    assert answer.reasoning == "Hm.\nFinal Answer: de?"


def test_a_generations_answer_is_the_text_after_the_thought(tmp_path):
    (tmp_path / "task.yaml").write_text("kind: generation\n")
    (tmp_path / "prompt.md").write_text("You keep a lighthouse.")
    task = load_task(tmp_path)
    assert task.name == tmp_path.name
    assert read(task, "Who asks?</think>\n\nFog again.\nMind the step. ").text == (
        "Fog again.\nMind the step."
    )
    assert read(task, "Who asks?").reject_reason is RejectReason.NO_END_OF_THINKING
    assert read(task, "x</think>Fog aga", finish_reason="length").text is None


# --- conversations -----------------------------------------------------------------------------


def test_the_teacher_sees_the_prompt_and_the_student_does_not(language):
    system, user = language.conversation("Guten Tag", with_prompt=True)
    assert system == {"role": "system", "content": language.prompt}
    assert language.conversation("Guten Tag", with_prompt=False) == (user,)
    assert user == {"role": "user", "content": "Guten Tag"}


def test_earlier_turns_stand_between_prompt_and_text(language):
    history = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    turns = language.conversation("c", history=history, with_prompt=True)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


# --- loading -----------------------------------------------------------------------------------


def test_the_language_task(language):
    assert tuple(language.labels) == LANGUAGES
    assert language.kind == "classification"
    assert len(language.prompt_sha256) == 64


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in ROOT.glob("tasks/*/task.yaml"))
)
def test_every_task_of_the_repository_loads_under_its_folders_name(name):
    assert load_task(ROOT / "tasks" / name).name == name


def test_the_language_prompt_is_long_by_qwens_own_count(language):
    tokenizers = pytest.importorskip("dashscope.tokenizers")
    qwen = tokenizers.get_tokenizer("qwen-7b-chat")
    assert len(qwen.encode(language.prompt)) >= 2000


def test_the_language_prompt_explains_every_label(language):
    for label in language.labels:
        assert f"| {label} |" in language.prompt
        assert f"Final Answer: {label}" in language.prompt


def test_labels_may_be_a_list(folder):
    (folder / "task.yaml").write_text("kind: classification\nlabels: ['no', 'yes']\n")
    assert load_task(folder).labels == {"no": "no", "yes": "yes"}


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("kind: [", "not valid YAML"),
        ("- kind", "expected a mapping of names to values, got a list"),
        (CLASSIFICATION + "lables: {}", "unknown key 'lables'; known are answer_pattern"),
        ("labels: {a: b}", "kind is None; it must be one of classification, text, json"),
        ("kind: regression", "kind is 'regression'"),
        ("kind: classification", "at least two labels, got 0"),
        ("kind: classification\nlabels: [only]", "at least two labels, got 1"),
        ("kind: classification\nlabels: [no, sv]", "quote 'no'"),
        ("kind: classification\nlabels: ['a ', b]", "the label 'a ' is empty or has spaces"),
        ("kind: classification\nlabels: 3", "labels must be a mapping or list"),
        ("kind: generation\nlabels: [a, b]", "kind text has no labels"),
        ("kind: generation\nanswer_pattern: '(a)'", "kind text has no answer_pattern"),
        (CLASSIFICATION.replace("(\\w+)", "(\\w+"), "cannot be used: missing )"),
        (CLASSIFICATION.replace("(\\w+)", "\\w+"), "has 0 groups; it needs one"),
        ("kind: generation\nprompt_file: other.md", "other.md is missing"),
    ],
)
def test_a_broken_task_says_what_is_wrong_and_where(folder, yaml, message):
    (folder / "task.yaml").write_text(yaml)
    with pytest.raises(TaskError) as caught:
        load_task(folder)
    assert message in str(caught.value)
    assert str(folder / "task.yaml") in str(caught.value)


def test_a_folder_without_a_task(tmp_path):
    with pytest.raises(TaskError, match=r"no task at .*see tasks/language"):
        load_task(tmp_path / "absent")


@pytest.mark.parametrize(
    ("prompt", "message"), [(b" \n", "is empty"), (b"Gr\xfc\xdfe", "not UTF-8")]
)
def test_a_prompt_that_cannot_be_used(folder, prompt, message):
    (folder / "prompt.md").write_bytes(prompt)
    with pytest.raises(TaskError, match=message):
        load_task(folder)


def test_another_prompt_has_another_hash(folder):
    before = load_task(folder).prompt_sha256
    (folder / "prompt.md").write_text("Judge the tone!\n")
    assert load_task(folder).prompt_sha256 != before


def test_require_answer(language):
    assert language.require_answer("de", where="x") == "de"
    with pytest.raises(TaskError, match=r"gold\.txt, line 3: unknown label 'xx'.*ar, de, el"):
        language.require_answer("xx", where="gold.txt, line 3")


def test_the_character_of_beethoven_has_591_words():
    task = load_task(ROOT / "tasks" / "beethoven")
    assert task.kind == "text"
    assert len(task.prompt.split()) == 591
