"""Which inputs `improve` chooses: those a student is weak at, and others that are like them."""

import heapq
from collections.abc import Sequence
from dataclasses import replace

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import Prediction
from prompt_distillation.data.splits import normalise
from prompt_distillation.engines.event_loop import run
from prompt_distillation.engines.scoring import make_label_scorer
from prompt_distillation.evaluation.evaluator import open_model
from prompt_distillation.evaluation.predictions import asking_of, predict, predict_by_score
from prompt_distillation.evaluation.selection import TestItem
from prompt_distillation.evaluation.text_scores import sentence_chrf
from prompt_distillation.tasks import Task


def ask_student(config: EvaluateConfig, inputs: Sequence[Input], task: Task) -> list[Prediction]:
    """A prediction for each input, in order: label probabilities, or without labels an answer.

    The truth of a prediction is what the input has as gold.
    """
    config = replace(config, decoding="scored" if task.labels else "free")
    items = [TestItem(input=one, truth=one.gold, teacher=None, trained_on=None) for one in inputs]

    async def answers() -> list[Prediction]:
        asking = asking_of(config, task)
        async with open_model(config) as model:
            if not task.labels:
                written = predict(model.engine, items, task=task, asking=asking)
                return [one async for one in written]
            scorer = await make_label_scorer(model.engine, model.options, list(task.labels))
            scored = predict_by_score(scorer, items, task=task, asking=asking)
            return [one async for one in scored]

    return run(answers())


def margin(prediction: Prediction) -> float:
    """The probability of the likeliest label minus that of the second; 1 where none was scored."""
    if prediction.label_probabilities is None:
        return 1.0
    first, second = heapq.nlargest(2, prediction.label_probabilities.values())
    return first - second


def ease(prediction: Prediction) -> float:
    """How easy an input with a known answer is for the student.

    With labels, the probability of that answer minus that of the likeliest other: below 0 where
    they disagree. Otherwise the similarity of the two answers (chrF), in [0, 1].
    """
    truth, shares = prediction.ground_truth or "", prediction.label_probabilities
    if shares is None:
        return sentence_chrf(prediction.predicted or "", truth)
    return shares.get(truth, 0.0) - max(p for name, p in shares.items() if name != truth)


def most_like(texts: Sequence[str], hard: Sequence[str], *, count: int) -> list[int]:
    """Positions among ``texts``: each hard text in turn takes the one most like it that is left.

    Likeness is the cosine of TF-IDF vectors of 2 to 4 characters within words: it needs no model
    and works in any script.

    Args:
        texts: to choose from.
        hard: what they should be like.
        count: about how many will be used; each hard text names four times as many.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), preprocessor=normalise)
    vectors = vectorizer.fit_transform([*texts, *hard])
    index = NearestNeighbors(n_neighbors=min(4 * count, len(texts)), metric="cosine")
    index.fit(vectors[: len(texts)])
    neighbours = index.kneighbors(vectors[len(texts) :], return_distance=False)
    return list(dict.fromkeys(neighbours.T.ravel().tolist()))
