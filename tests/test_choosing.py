"""Which inputs a round of `improve` takes."""

import math
import random
from pathlib import Path

import pytest

from prompt_distillation.choosing import Known, ask_student, ease, hardest, uncertainty
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import Prediction
from prompt_distillation.data.splits import input_key
from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.evaluation.likelihood import likelihood_model
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).parents[1]
TEXTS = ("What do you make of the fog?", "Who keeps the light?", "Is the ferry late again?")


@pytest.fixture
def make_prediction():
    def make(shares=None, *, truth="a", predicted="a", mean_logprob=None):
        return Prediction(
            index=0, text="text", group="g", predicted=predicted, ground_truth=truth,
            correct=predicted == truth, label_probabilities=shares, mean_logprob=mean_logprob,
        )  # fmt: skip

    return make


@pytest.fixture
def make_inputs():
    def make(*texts, gold=None):
        return [
            Input(index=place, text=text, group=f"g{place}", gold=gold)
            for place, text in enumerate(texts)
        ]

    return make


def test_with_labels_an_input_is_unsure_where_the_two_likeliest_are_close(make_prediction):
    assert uncertainty(make_prediction({"a": 0.5, "b": 0.1, "c": 0.4})) == pytest.approx(-0.1)
    assert uncertainty(make_prediction({"a": 0.9, "b": 0.1, "c": 0.0})) == pytest.approx(-0.8)


def test_without_labels_it_is_unsure_where_its_own_answer_is_unlikely(make_prediction):
    assert uncertainty(make_prediction(mean_logprob=-0.7)) == 0.7
    assert uncertainty(make_prediction()) == -math.inf


def test_the_students_own_answer_is_scored_as_the_model_scores_it(tmp_path, make_inputs):
    """The mean over the answer's tokens, its end included, whatever batch it was written in."""
    (tmp_path / "task.yaml").write_text("name: talk\nkind: text\n")
    (tmp_path / "prompt.md").write_text("Answer.")
    task = load_task(tmp_path)
    student = str(ROOT / "example-models/student")
    config = EvaluateConfig.of(model_path=student, engine="transformers")

    made = ask_student(config, task, make_inputs(*TEXTS))

    options = EngineOptions(model=student, device="cpu")
    with likelihood_model(options, PromptEncoder.of(options)) as model:
        for text, one in zip(TEXTS, made, strict=True):
            (score,) = model.score_answers(
                [(task.conversation(text, with_prompt=False), one.raw_output)]
            )
            tokens = one.completion_tokens
            assert one.mean_logprob == pytest.approx(-score.nats / tokens, rel=0.01)


def test_an_input_is_hard_where_the_student_disagrees_with_the_teacher(make_prediction):
    shares = {"a": 0.5, "b": 0.1, "c": 0.4}
    assert ease(make_prediction(shares, truth="a")) == pytest.approx(0.1)
    assert ease(make_prediction(shares, truth="b")) == pytest.approx(-0.4)
    assert ease(make_prediction(None, truth="a fine day", predicted="a fine day")) == 1.0
    assert ease(make_prediction(None, truth="a fine day", predicted=None)) == 0.0


def test_the_hardest_come_first(make_prediction, make_inputs):
    labelled = make_inputs("sure", "wrong", "unsure", gold="a")
    shares = {"sure": 0.9, "wrong": 0.2, "unsure": 0.6}

    def ask(inputs):
        return [make_prediction({"a": shares[i.text], "b": 1 - shares[i.text]}) for i in inputs]

    found = hardest(labelled, ask=ask, draw=random.Random(0))
    assert [item.text for item in found] == ["wrong", "unsure", "sure"]


def test_what_is_known_held_out_or_nearly_the_same_is_not_taken():
    known = Known(held_out_groups={"kept"})
    known.keys.add(input_key("Where is the old station of the town?"))
    known.near.add("Where is the old station of the town?")

    def takes(text, group="g"):
        return known.take([Input(index=0, text=text, group=group)], 1) != []

    assert not takes("where is  the OLD station of the town?")
    assert not takes("Where is the old station of the town")
    assert not takes("Something else entirely.", group="kept")
    assert takes("Something else entirely.")
    assert not takes("Something else entirely.")
