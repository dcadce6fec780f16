"""Values of JSON answers against those of the truth."""

import json

import pytest

from prompt_distillation.data.results import FieldScores, Prediction
from prompt_distillation.evaluation.field_scores import field_scores


def scored(*pairs: tuple[object, object]) -> FieldScores:
    """Scores of ``(truth, answer)`` pairs; an answer of ``...`` is none at all."""
    scores = field_scores(
        [
            Prediction(
                index=i, text=f"input {i}", group="g", correct=None,
                predicted=None if answer is ... else json.dumps(answer),
                ground_truth=json.dumps(truth),
            )
            for i, (truth, answer) in enumerate(pairs)
        ]
    )  # fmt: skip
    assert scores is not None
    return scores


def test_precision_recall_and_invented_values() -> None:
    scores = scored(
        ({"a": 1, "b": "x", "c": None}, {"a": 1, "b": "y", "c": "made up"}),
        ({"a": 2, "b": "z"}, {"a": 2}),
        ({"a": 3}, ...),
    )

    # wanted: a b, a b, a = 5; given: a b c, a = 4; right: a, a
    assert (scores.precision, scores.recall) == (pytest.approx(2 / 4), pytest.approx(2 / 5))
    assert scores.f1 == pytest.approx(4 / 9)
    assert scores.invented == pytest.approx(1 / 4)
    assert list(scores.fields) == ["$.b", "$.c", "$.a"]
    assert (scores.fields["$.a"].recall, scores.fields["$.a"].precision) == (
        pytest.approx(2 / 3),
        1,
    )
    assert scores.fields["$.c"].invented == 1
    assert scores.fields["$.b"].error_examples[0].predicted == '"x" -> "y"'
    assert scores.fields["$.b"].error_examples[1].predicted == '"z" -> nothing'


def test_the_interval_of_f1_comes_from_drawing_inputs_again() -> None:
    mixed = scored(*[({"a": 1}, {"a": 1})] * 40, *[({"a": 1}, {"a": 2})] * 10)
    assert mixed.f1_interval is not None
    assert 0.65 < mixed.f1_interval.low < mixed.f1 < mixed.f1_interval.high < 0.95
    assert scored(({"a": 1}, {"a": 1})).f1_interval is None


def test_examples_are_wrong_values_before_missing_answers() -> None:
    scores = scored(*[({"a": 1}, ...)] * 5, ({"a": 2}, {"a": 3}))

    examples = [example.predicted for example in scores.fields["$.a"].error_examples]
    assert examples == ["2 -> 3", "1 -> nothing", "1 -> nothing"]


def test_scalars_are_compared_by_meaning_and_type() -> None:
    scores = scored(
        (
            {"a": " Straße", "b": 1, "c": True, "d": 2.5, "e": 1},
            {"a": "STRASSE", "b": 1.0, "c": 1, "d": 2.50, "e": "1"},
        )
    )

    right = {path for path, one in scores.fields.items() if one.correct}
    assert right == {"$.a", "$.b", "$.d"}


def test_elements_of_lists_are_paired_whatever_their_order() -> None:
    truth = {"items": [{"n": "pen", "q": 1}, {"n": "ink", "q": 2}], "tags": ["x", "y"]}
    answer = {"items": [{"n": "ink", "q": 2}, {"n": "pen", "q": 9}], "tags": ["y", "x", "z"]}

    scores = scored((truth, answer))

    assert scores.fields["$.items[].n"].f1 == 1
    assert scores.fields["$.items[].q"].correct == 1
    assert scores.fields["$.tags[]"].correct == 2
    assert scores.fields["$.tags[]"].invented == 1


def test_another_kind_of_value_is_wrong_and_its_parts_are_invented() -> None:
    scores = scored(({"a": "x"}, {"a": {"b": 1}}))

    assert scores.fields["$.a"].recall == 0
    assert scores.fields["$.a.b"].invented == 1


def test_without_a_truth_there_are_no_scores() -> None:
    nothing = Prediction(
        index=0, text="x", group="g", predicted="{}", ground_truth=None, correct=None
    )
    assert field_scores([nothing]) is None
