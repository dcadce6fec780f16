"""Labels are read whole and in time; what cannot be read is refused when the task is loaded."""

import time

import pytest

from prompt_distillation.errors import TaskError
from prompt_distillation.tasks import RejectReason, load_task

SHIPPED = r"Final Answer:\s*(\w+)"


@pytest.fixture
def make_task(tmp_path):
    def make(labels, pattern=SHIPPED, prompt="End with `Final Answer: xx`."):
        listed = ", ".join(f"'{label}'" for label in labels)
        (tmp_path / "task.yaml").write_text(
            f"kind: classification\nlabels: [{listed}]\nanswer_pattern: '{pattern}'\n"
        )
        (tmp_path / "prompt.md").write_text(prompt)
        return load_task(tmp_path)

    return make


def label_of(task, text):
    return task.parse(text, finish_reason="stop", thinking=False).text


@pytest.mark.parametrize(
    ("labels", "text", "wanted"),
    [
        (["zh", "zh-cn"], "Final Answer: zh-cn", "zh-cn"),
        (["zh", "zh-cn"], "Final Answer: zh", "zh"),
        (["zh", "zh-cn"], "Final Answer: zh-tw", None),
        (["zh", "zh-cn"], "Final Answer: zh. Sure.", "zh"),
        (["spam", "not spam"], "Final Answer: not spam", "not spam"),
        (["spam", "not spam"], "Final Answer: not spammy", None),
        (["spam", "not spam"], "Final Answer: not spam\nFinal Answer: spam", "spam"),
        (["spam", "not spam"], "Final Answer: spam\nFinal Answer: unsure", None),
        (["c", "c++"], "Final Answer: c++", "c++"),
        (["größe", "été", "हिंदी"], "Final Answer: हिंदी", "हिंदी"),
        (["größe", "été", "हिंदी"], "**Final Answer:** été", None),
        (["größe", "été", "हिंदी"], "Final Answer: été**", "été"),
        (["de", "fr"], "Final Answer: deutsch", None),
        (["de", "fr"], "Final Answer:\u00a0de", "de"),
    ],
)
def test_the_whole_label_is_read(make_task, labels, text, wanted):
    assert label_of(make_task(labels), text) == wanted


def test_a_group_that_takes_the_line_must_hold_the_label_alone(make_task):
    task = make_task(["spam", "not spam"], r"Answer:(.*)", "Write `Answer: x`.")
    assert label_of(task, "Answer:  not spam ") == "not spam"
    assert label_of(task, "Answer: spam or not spam") is None


@pytest.mark.parametrize(
    "pattern",
    [
        r"<answer>([^<]+)</answer>", r"(?i)answer[)\]]? is (?:the )?(?P<label>[[:alpha:]]+)\.?",
        r"\(([\w-]+)\)", r"[\]()]*Answer: (\S+)", r"[^]]Answer: (\w+)",
    ],
)  # fmt: skip
def test_the_group_is_found_in_any_pattern(make_task, pattern):
    texts = "<answer>pos</answer> Answer: pos (pos) The answer is the pos."
    assert label_of(make_task(["pos", "neg"], pattern, "Say it."), texts) == "pos"


def test_a_label_that_would_not_be_read_is_refused(make_task):
    with pytest.raises(TaskError, match=r"label 'a', written as 'Label a-x', .*answer_pattern"):
        make_task(["a", "a-b"], r"Label (\w+)-x", "Write `Label a-x`.")


def test_a_label_that_ends_the_reasoning_is_refused(make_task):
    with pytest.raises(TaskError, match="</think>"):
        make_task(["a", "</think>b"])


@pytest.mark.parametrize("pattern", [r"Answer: (?=a)(\w+)", r"(\w+) \1", r"(a)(b)"])
def test_what_re2_cannot_do_is_refused_when_loaded(make_task, pattern):
    with pytest.raises(TaskError, match=r"answer_pattern .* (lookahead|has 2 groups)"):
        make_task(["a", "b"], pattern)


def test_no_answer_makes_a_pattern_search_forever(make_task):
    task = make_task(["a", "b"], r"((?:a+)+)$")
    started = time.monotonic()
    answer = task.parse("a" * 50_000 + "!", finish_reason="stop", thinking=False)
    assert answer.reject_reason is RejectReason.NO_LABEL
    assert time.monotonic() - started < 30


def test_half_a_character_beside_a_label_is_no_obstacle(make_task):
    assert label_of(make_task(["a", "b"]), "\ud83d Final Answer: b") == "b"


def test_a_gold_label_is_exact(make_task):
    task = make_task(["zh", "zh-cn"])
    assert task.require_answer("zh-cn", where="x") == "zh-cn"
    with pytest.raises(TaskError, match=r"gold\.txt, line 3: unknown label 'xx'.*zh, zh-cn"):
        task.require_answer("xx", where="gold.txt, line 3")
