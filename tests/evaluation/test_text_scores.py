from pathlib import Path

import pytest
from rouge_score import rouge_scorer
from sacrebleu import corpus_bleu, corpus_chrf

from prompt_distillation.data.results import Prediction
from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.evaluation.text_scores import (
    check_similarity,
    find_leaks,
    longest_run,
    text_scores,
    words,
)
from prompt_distillation.tasks import load_task

PROMPT = "You keep the light. Never leave the lamp alone when the wind is above force seven."
WRITTEN = ["The cat sat on the mat.", "Fog again, mind the step.", "", "Nine miles out, and calm."]
REFERENCES = ["The cat lay on the mat.", "There is fog; mind the step!", "Nothing.", "Calm, nine."]


def texts(*pairs: tuple[str | None, str | None], **fields: str | None) -> list[Prediction]:
    return [
        Prediction(
            index=i, text="Is it foggy?", group="g", predicted=text, ground_truth=truth,
            correct=None, **fields,
        )
        for i, (text, truth) in enumerate(pairs)
    ]  # fmt: skip


def test_overlap_is_what_the_libraries_say() -> None:
    predictions = texts(*zip([text or None for text in WRITTEN], REFERENCES, strict=True))

    found = text_scores([*predictions, *texts(("extra", None))], "teacher", prompt=PROMPT)

    bleu = corpus_bleu(WRITTEN, [REFERENCES])
    assert (found.n, found.total, found.reference) == (4, 5, "teacher")
    assert found.bleu.value == pytest.approx(bleu.score / 100)
    assert found.length_ratio.value == pytest.approx(bleu.sys_len / bleu.ref_len)
    assert found.chrf.value == pytest.approx(corpus_chrf(WRITTEN, [REFERENCES]).score / 100)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    each = [
        scorer.score(reference, text)["rougeL"].fmeasure
        for text, reference in zip(WRITTEN, REFERENCES, strict=True)
    ]
    assert found.rouge_l.value == pytest.approx(sum(each) / 4)


def test_every_figure_has_an_interval_around_it_and_the_same_one_again() -> None:
    ways = ("rising", "falling fast again")
    pairs = [(f"the wind is {i} and {ways[i % 2]}", "the wind is rising") for i in range(40)]
    scores = text_scores(texts(*pairs), "gold", prompt=PROMPT)

    assert len(scores.named) == 10
    for name, score in scores.named:
        assert score.interval is not None, name
        assert score.interval.low <= score.value <= score.interval.high, name
    assert scores.chrf.interval.low < scores.chrf.interval.high
    assert scores.distinct_2.interval.low < scores.distinct_2.interval.high
    assert text_scores(texts(*pairs), "gold", prompt=PROMPT) == scores


def test_more_inputs_make_narrower_intervals() -> None:
    pairs = [("calm and clear" if i % 2 else "fog", "calm and foggy") for i in range(20)]

    few, many = (
        text_scores(texts(*some), "gold", prompt=PROMPT).chrf.interval
        for some in (pairs, pairs * 9)
    )

    assert many.high - many.low < (few.high - few.low) / 2


def test_rouge_is_left_out_for_scripts_that_it_cannot_read() -> None:
    found = text_scores(texts(("Привет, мир", "Привет, мир")), "gold", prompt=PROMPT)

    assert found.rouge_l is None
    assert found.chrf.value == pytest.approx(1.0)
    assert found.chrf.interval is None  # of one input nothing can be said


def test_without_any_reference_only_what_needs_none_is_there() -> None:
    found = text_scores(texts(("a a b", None)), "teacher", prompt=PROMPT)

    assert (found.n, found.bleu, found.length_ratio) == (0, None, None)
    assert found.distinct_1.value == pytest.approx(2 / 3)
    assert found.distinct_2.value == pytest.approx(1)


def test_cut_and_empty_answers_are_shares_of_all_inputs() -> None:
    predictions = [
        *texts(("calm", None), ("fog", None)),
        *texts((None, None), reject_reason="cut_by_length"),
        *texts((None, None), reject_reason="empty_answer"),
    ]

    found = text_scores(predictions, "teacher", prompt=PROMPT)

    assert (found.cut.value, found.empty.value) == (0.25, 0.25)


def test_an_answer_leaks_that_quotes_eight_words_of_the_prompt() -> None:
    seven = "I never leave the lamp alone when the kettle boils"
    eight = "As I say, NEVER leave the lamp... alone when the wind howls"

    leaks = find_leaks(texts((seven, None), (eight, None)), prompt=PROMPT)

    assert leaks.indices == (1,)
    assert leaks.prompt.value == 0.5
    assert leaks.longest_of_prompt == "never leave the lamp alone when the wind"


def test_what_the_input_says_itself_may_be_repeated() -> None:
    answer = "never leave the lamp alone when the wind is above force seven"
    item = Prediction(
        index=0, text=f"Who said '{answer}'?", group="g", predicted=answer, ground_truth=None,
        correct=None,
    )  # fmt: skip

    assert find_leaks([item], prompt=PROMPT).indices == ()


def test_the_teachers_reasoning_leaks_but_not_its_draft_of_the_answer() -> None:
    draft = "two flashes every fifteen seconds and a horn when it is thick"
    reasoning = f"The caller wants the signal so I have to tell the facts. Draft: {draft}."
    told = "The caller wants the signal so I have to tell the facts."
    items = texts((draft, None), (told, None), ("Fine.</think> Two.", None), teacher=draft)

    leaks = find_leaks(items, prompt=PROMPT, reasonings=[reasoning, reasoning, None])

    assert leaks.indices == (1, 2)
    assert leaks.reasoning_known == 2
    assert leaks.longest_of_reasoning == " ".join(words(told))


def test_a_long_answer_is_searched_in_a_moment() -> None:
    source = f" {' '.join(f'w{i % 600}' for i in range(600))} "
    answer = [f"w{i % 700}" for i in range(20_000)]

    assert longest_run(answer, source) == answer[:600]


def test_words_of_scripts_without_spaces_and_with_vowel_signs() -> None:
    assert words("今日は、霧です。") == ["今", "日", "は", "霧", "で", "す"]
    assert words("नमस्ते दुनिया!") == ["नमस्ते", "दुनिया"]


@pytest.fixture(scope="session")
def similarity_model(tmp_path_factory: pytest.TempPathFactory, tiny_models) -> Path:
    """A model of sentence-transformers: the mean of a tiny student's states."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    states = Transformer(str(tiny_models.student))
    model = library.SentenceTransformer(modules=[states, Pooling(states.get_embedding_dimension())])
    folder = tmp_path_factory.mktemp("similarity")
    model.save(str(folder))
    return folder


def test_similarity_is_the_librarys_cosine(similarity_model: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import pairwise_cos_sim

    written = [text or "x" for text in WRITTEN]
    predictions = texts(*zip(written, REFERENCES, strict=True))

    found = text_scores(
        predictions, "gold", prompt=PROMPT, similarity_model=str(similarity_model)
    ).similarity

    model = SentenceTransformer(str(similarity_model))
    cosines = pairwise_cos_sim(model.encode(written), model.encode(REFERENCES))
    assert found.value == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert found.interval is not None


def test_a_missing_answer_is_similar_to_nothing(similarity_model: Path) -> None:
    found = text_scores(
        texts((None, "calm"), ("calm", "calm")), "gold", prompt=PROMPT,
        similarity_model=str(similarity_model),
    )  # fmt: skip

    assert found.similarity.value == pytest.approx(0.5)


def test_a_similarity_model_that_cannot_be_used_is_told_before_anything_runs(
    language_task, tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers")
    persona = load_task(Path(__file__).parents[2] / "tasks" / "persona")

    with pytest.raises(ConfigError, match="compares texts"):
        check_similarity("some/model", language_task)
    with pytest.raises(ModelError, match="cannot load the similarity model"):
        check_similarity(str(tmp_path / "nothing"), persona)
    check_similarity(None, language_task)
