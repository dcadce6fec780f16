"""Does an answer sound as the teacher's do under the prompt? A classifier that reads style.

It learns from the teacher's answers with the prompt against the same teacher's without it. Both
sides answer the same questions, so what a question is about tells it nothing; words, spelling,
punctuation and layout do. It cannot see whether what an answer says is true.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prompt_distillation.data.intervals import share_of
from prompt_distillation.data.probes import Character, Pressure, ProbedInput
from prompt_distillation.errors import InputError

FOLDS = 5
IN_CHARACTER, OUT_OF_CHARACTER = "teacher", "teacher_unprompted"
"""Whose answers the classifier learns from, see `MODEL_TITLES`."""


def judge_character(inputs: Sequence[ProbedInput]) -> tuple[list[ProbedInput], Character]:
    """Judge every answer by a classifier that saw no answer to a question of the same group.

    Args:
        inputs: questions with the answers of the teacher, with and without the prompt, and of
            any other model.

    Returns:
        The inputs with ``in_character``, and what the test inputs among them show.

    Raises:
        InputError: too few questions have an answer of both kinds.
    """
    from sklearn.model_selection import GroupKFold

    groups = [item.group for item in inputs]
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        raise _too_few(inputs)
    judged = list(inputs)
    split = GroupKFold(n_splits=folds, shuffle=True, random_state=0)
    for learned, left_out in split.split(groups, groups=groups):
        classifier = _train([inputs[place] for place in learned])
        if classifier is None:
            raise _too_few(inputs)
        for place in left_out:
            item = inputs[place]
            found = {key: _is_in(classifier, answer) for key, answer in item.answers.items()}
            judged[place] = replace(item, in_character=found)
    return judged, _character(judged, folds)


def pressure_results(inputs: Sequence[ProbedInput]) -> tuple[Pressure, ...]:
    """Shares in character for each category of the judged questions, in their order."""
    categories = dict.fromkeys(item.category for item in inputs if item.category is not None)
    return tuple(
        Pressure(category=category, questions=len(members), models=_shares(members))
        for category in categories
        for members in [[item for item in inputs if item.category == category]]
    )


def _character(judged: Sequence[ProbedInput], folds: int) -> Character:
    told = [
        item.in_character[key] is (key == IN_CHARACTER)
        for item in judged
        for key in (IN_CHARACTER, OUT_OF_CHARACTER)
        if item.answers[key] is not None
    ]
    of_test = [item for item in judged if item.category is None]
    return Character(
        answers=len(told),
        folds=folds,
        accuracy=share_of(sum(told), len(told)),
        inputs=len(of_test),
        models=_shares(of_test),
    )


def _shares(inputs: Sequence[ProbedInput]) -> Mapping[str, Any]:
    return {
        key: share_of(sum(item.in_character[key] for item in inputs), len(inputs))
        for key in inputs[0].answers
    }


def _train(inputs: Sequence[ProbedInput]) -> Any:
    """A classifier of texts; None where one side has no answers."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    pairs = [
        (answer, key == IN_CHARACTER)
        for item in inputs
        for key in (IN_CHARACTER, OUT_OF_CHARACTER)
        if (answer := item.answers[key]) is not None
    ]
    texts, sides = [text for text, _ in pairs], [side for _, side in pairs]
    if len(set(sides)) < 2:
        return None
    words = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    # Balanced: the teacher may have more answers with the prompt than without it.
    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    return make_pipeline(make_union(words, characters), regression).fit(texts, sides)


def _is_in(classifier: Any, answer: str | None) -> bool:
    return answer is not None and bool(classifier.predict([answer])[0])


def _too_few(inputs: Sequence[ProbedInput]) -> InputError:
    counts = [
        sum(item.answers[key] is not None for item in inputs)
        for key in (IN_CHARACTER, OUT_OF_CHARACTER)
    ]
    return InputError(
        f"of {len(inputs)} questions the teacher answered {counts[0]} with the prompt and "
        f"{counts[1]} without it; the classifier of character needs some of both in several "
        "groups: ask more inputs, raise --teacher_max_tokens, pass --no_thinking if the teacher "
        "does not reason, or leave character and pressure out of --probes"
    )
