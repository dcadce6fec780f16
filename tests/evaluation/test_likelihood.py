import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import InputError, ModelError
from prompt_distillation.evaluation.likelihood import (
    ScoredText,
    divergence,
    likelihood_model,
    perplexity,
)

TURNS = ({"role": "user", "content": "Fog?"},)
ANSWERS = ("Thick. Mind the step.", "None.")
TEXTS = ("The tide rises.", "A map leaves things out, and so it should.")


@pytest.fixture(scope="module")
def student(tiny_models):
    options = EngineOptions(model=str(tiny_models.student), device="cpu")
    with likelihood_model(options, PromptEncoder.of(options)) as model:
        yield model


def library_loss(folder: Path, ids: list[int], labels: list[int]) -> float:
    """The summed loss that transformers computes itself."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
    return float(loss) * sum(label != -100 for label in labels[1:])


def test_plain_text_scores_as_the_library_scores_it(student, tiny_models) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.student)

    scores = student.score_texts(TEXTS)

    for text, score in zip(TEXTS, scores, strict=True):
        ids = tokenizer.encode(text)
        assert score.tokens == len(ids) - 1
        assert score.nats == pytest.approx(library_loss(tiny_models.student, ids, ids), rel=1e-4)


def test_an_answer_is_scored_with_the_end_of_its_turn_and_without_its_context(
    student, tiny_models
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.student)
    context = tokenizer.apply_chat_template(
        list(TURNS), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    answer = [*tokenizer.encode(ANSWERS[0]), tokenizer.eos_token_id]

    (score,) = student.score_answers([(TURNS, ANSWERS[0])])

    labels = [-100] * len(context) + answer
    assert score.tokens == len(answer)
    expected = library_loss(tiny_models.student, [*context, *answer], labels)
    assert score.nats == pytest.approx(expected, rel=1e-4)


def test_perplexity_weighs_every_token_alike() -> None:
    short, long = ScoredText(nats=2.0, tokens=1), ScoredText(nats=3.0, tokens=9)

    found = perplexity([short, long, None], [long, long, long], what="texts")

    assert found.before.value == pytest.approx(math.exp(5 / 10))
    assert found.after.value == pytest.approx(math.exp(6 / 18))
    assert (found.texts, found.left_out) == (2, 1)
    assert found.before.interval.low < found.before.value < found.before.interval.high


def test_texts_that_do_not_fit_are_left_out_and_none_at_all_is_an_error(tiny_models) -> None:
    options = EngineOptions(model=str(tiny_models.student), device="cpu", max_model_len=20)
    with likelihood_model(options, PromptEncoder.of(options)) as model:
        scores = model.score_texts(["a" * 10, "a" * 100, "a"])

    assert [score is None for score in scores] == [False, True, True]
    with pytest.raises(InputError, match="none of 2 texts can be scored"):
        perplexity([None, None], scores[:1] * 2, what="plain text")


def test_a_model_does_not_differ_from_itself(student) -> None:
    own = student.distributions([(TURNS, answer) for answer in ANSWERS])

    found = divergence(own, own)

    assert found.nats_per_token.value == pytest.approx(0, abs=1e-6)
    assert (found.prompts, found.tokens) == (2, sum(map(len, ANSWERS)) + 2)


def test_the_divergence_is_that_of_the_student_from_its_base() -> None:
    def of(*rows: tuple[float, ...]) -> list[torch.Tensor]:
        return [torch.tensor(rows).log()]

    base, student = of((0.5, 0.5), (0.9, 0.1)), of((0.8, 0.2), (0.9, 0.1))

    found = divergence(base, student).nats_per_token

    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert found.value == pytest.approx(expected / 2, rel=1e-5)
    assert divergence(student, base).nats_per_token.value != pytest.approx(found.value, rel=1e-3)


def test_other_vocabularies_cannot_be_compared() -> None:
    with pytest.raises(ModelError, match="knows 5 tokens and its base 4"):
        divergence([torch.zeros(2, 4)], [torch.zeros(2, 5)])
