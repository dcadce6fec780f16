import json
from pathlib import Path

import pytest
from labelling.scripted import LANGUAGE_TASK, answer, completion, settings

from prompt_distillation.engines.base import Completion
from prompt_distillation.labelling.journal import Attempt
from prompt_distillation.labelling.votes_and_retries import ReadAttempt, Step, Verdict, Votes
from prompt_distillation.tasks import RejectReason, load_task

CUT = completion("so much to think about", finish_reason="length")
RAMBLING = completion("it may be en, or de")


def votes(**values) -> Votes:
    config = settings(Path(), temperature=0.15, max_tokens=100, **values)
    return Votes(load_task(LANGUAGE_TASK), config)


def made(step: Step, result: Completion | str, *, refused: bool = False) -> ReadAttempt:
    """What came of ``step``: a completion, or an error given as text."""
    failed = isinstance(result, str)
    attempt = Attempt(
        vote=step.vote,
        attempt=step.attempt,
        temperature=step.temperature,
        max_tokens=step.max_tokens,
        completion=None if failed else result,
        error=result if failed else None,
        refused=refused,
    )
    return votes().read(attempt)


def play(judge: Votes, replies: dict[int, list[Completion | str]]) -> tuple[Verdict, list[Step]]:
    """Answer the steps asked for from ``replies`` (vote -> completions) until the verdict."""
    attempts: list[ReadAttempt] = []
    asked: list[Step] = []
    while not isinstance(outcome := judge.assess(attempts), Verdict):
        assert outcome, "neither a verdict nor a step"
        asked += outcome
        attempts += [made(step, replies[step.vote][step.attempt]) for step in outcome]
    return outcome, asked


def test_one_vote_one_answer():
    verdict, asked = play(votes(), {0: [answer("fr")]})
    assert (verdict.answer, verdict.agreement, verdict.votes) == ("fr", 1.0, {"fr": 1})
    assert verdict.reasoning == "It looks like it."
    assert asked == [Step(vote=0, attempt=0, temperature=0.15, max_tokens=100)]


def test_a_retry_is_hotter_and_a_cut_answer_gets_twice_the_budget():
    _, asked = play(votes(max_retries=3), {0: [CUT, RAMBLING, CUT, answer("fr")]})
    assert [round(step.temperature, 2) for step in asked] == [0.15, 0.4, 0.65, 0.9]
    assert [step.max_tokens for step in asked] == [100, 200, 200, 400]


def test_temperature_never_rises_above_one():
    _, asked = play(votes(max_retries=9), {0: [RAMBLING] * 10})
    assert asked[-1].temperature == 1.0
    assert len(asked) == 10


def test_the_last_attempt_says_why_there_is_no_answer():
    verdict, _ = play(votes(max_retries=1), {0: [RAMBLING, CUT]})
    assert (verdict.answer, verdict.reject_reason) == (None, RejectReason.LENGTH)


def test_a_failed_request_rejects_without_another():
    verdict, asked = play(votes(max_retries=3), {0: ["connection cut"]})
    assert verdict.reject_reason is RejectReason.ENGINE_ERROR
    assert verdict.decisive.error == "connection cut"
    assert len(asked) == 1


def test_a_retry_that_is_refused_leaves_the_reason_of_the_attempt_before():
    judge = votes(max_retries=3)
    (first,) = judge.assess([])
    attempts = [made(first, CUT)]
    (retry,) = judge.assess(attempts)
    refused = made(retry, "HTTP 400: max_tokens is too large", refused=True)
    verdict = judge.assess([*attempts, refused])
    assert isinstance(verdict, Verdict)
    assert verdict.reject_reason is RejectReason.LENGTH
    # One that only failed may go better in the next run, which asks again for engine errors.
    failed = judge.assess([*attempts, made(retry, "connection cut")])
    assert isinstance(failed, Verdict)
    assert failed.reject_reason is RejectReason.ENGINE_ERROR
    # Nothing was ever read of an input whose first request is refused.
    only = judge.assess([made(first, "HTTP 400", refused=True)])
    assert isinstance(only, Verdict)
    assert only.reject_reason is RejectReason.ENGINE_ERROR


def test_voting_stops_when_the_rest_cannot_change_the_majority():
    replies = {vote: [answer("fr")] for vote in range(5)}
    verdict, asked = play(votes(num_votes=5), replies)
    assert [step.vote for step in asked] == [0, 1, 2]
    assert (verdict.answer, verdict.cast) == ("fr", 3)


def test_a_split_vote_goes_on_until_it_is_decided():
    labels = ["fr", "en", "en", "fr", "en"]
    replies = {vote: [answer(label)] for vote, label in enumerate(labels)}
    verdict, asked = play(votes(num_votes=5), replies)
    assert len(asked) == 5
    assert verdict.votes == {"en": 3, "fr": 2}
    assert verdict.agreement == 0.6


def test_an_unread_vote_counts_against_the_agreement():
    replies = {0: [answer("fr")], 1: [RAMBLING], 2: [answer("fr")]}
    verdict, _ = play(votes(num_votes=3, max_retries=0), replies)
    assert (verdict.answer, verdict.cast) == ("fr", 3)
    assert verdict.agreement == pytest.approx(2 / 3)


def test_too_little_agreement_rejects_and_stops_early():
    labels = ["fr", "en", "de", "el", "es"]
    replies = {vote: [answer(label)] for vote, label in enumerate(labels)}
    verdict, asked = play(votes(num_votes=5, min_agreement=0.8), replies)
    assert verdict.reject_reason is RejectReason.LOW_AGREEMENT
    assert verdict.answer is None
    # Two votes for others than the first settle that no label can get four of five.
    assert len(asked) <= 4


def test_agreement_is_not_cut_short_by_the_majority():
    replies = {vote: [answer("fr")] for vote in range(5)}
    verdict, asked = play(votes(num_votes=5, min_agreement=1.0), replies)
    assert (verdict.answer, len(asked)) == ("fr", 5)


@pytest.mark.parametrize(("agreeing", "answered"), [(11, True), (10, False)])
def test_a_share_that_floating_point_rounds_up_is_still_reached(agreeing, answered):
    # 0.55 * 20 is 11.000000000000002.
    others = ["en", "de", "el", "es", "ru"] * 4
    labels = ["fr"] * agreeing + others[: 20 - agreeing]
    replies = {vote: [answer(label)] for vote, label in enumerate(labels)}
    verdict, _ = play(votes(num_votes=20, min_agreement=0.55), replies)
    assert (verdict.answer is not None) == answered


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_verdict_does_not_depend_on_what_finished_first(order):
    judge = votes(num_votes=3)
    labels = ["fr", "en", "fr"]
    steps = [Step(vote=vote, attempt=0, temperature=0.15, max_tokens=100) for vote in range(3)]
    attempts = [made(steps[vote], answer(labels[vote])) for vote in order]
    verdict = judge.assess(attempts)
    assert isinstance(verdict, Verdict)
    assert verdict.votes == {"fr": 2, "en": 1}


def test_votes_beyond_the_deciding_ones_do_not_count():
    # A journal made with five votes, read by a policy of three.
    judge = votes(num_votes=3)
    steps = [Step(vote=vote, attempt=0, temperature=0.15, max_tokens=100) for vote in range(5)]
    attempts = [made(step, answer("fr" if step.vote < 2 else "en")) for step in steps]
    verdict = judge.assess(attempts)
    assert isinstance(verdict, Verdict)
    assert (verdict.answer, verdict.cast) == ("fr", 2)


def test_a_resumed_vote_asks_only_for_what_is_missing():
    judge = votes(num_votes=3)
    step = Step(vote=1, attempt=0, temperature=0.15, max_tokens=100)
    outcome = judge.assess([made(step, answer("fr"))])
    assert [(step.vote, step.attempt) for step in outcome] == [(0, 0)]


def test_of_an_attempt_recorded_twice_a_completion_goes_before_a_failure():
    judge = votes()
    step = Step(vote=0, attempt=0, temperature=0.15, max_tokens=100)
    verdict = judge.assess([made(step, "timeout"), made(step, answer("fr")), made(step, CUT)])
    assert isinstance(verdict, Verdict)
    assert verdict.answer == "fr"


CARD = {
    "type": "object",
    "required": ["city"],
    "additionalProperties": False,
    "properties": {
        "city": {"type": "string"},
        "tags": {"type": "array"},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}}},
    },
}


def card_votes(folder: Path, schema: object = CARD, **values) -> Votes:
    """Votes on the fields of JSON objects."""
    (folder / "task.yaml").write_text("kind: json\nvotes: field\n")
    (folder / "prompt.md").write_text("Answer in JSON.")
    (folder / "schema.json").write_text(json.dumps(schema))
    config = settings(folder, task=folder, temperature=0.5, max_tokens=100, **values)
    return Votes(load_task(folder), config)


def decide(judge: Votes, objects: list[object]) -> tuple[Verdict, int]:
    """The verdict on votes for these objects, and how many of them were asked for."""
    attempts: list[ReadAttempt] = []
    while not isinstance(outcome := judge.assess(attempts), Verdict):
        for step in outcome:
            text = f"Hm.</think>{json.dumps(objects[step.vote])}"
            attempts.append(judge.read(made(step, completion(text)).attempt))
    return outcome, len(attempts)


def test_each_field_of_an_object_is_decided_by_its_own_majority(tmp_path):
    objects = [
        {"city": "Ulm", "tags": ["a", "b"], "place": {"lat": 1}},
        {"city": "Ulm", "tags": ["b", "a"], "place": {"lat": 2}},
        {"city": "Bonn", "tags": ["a", "b"], "place": {"lat": 2}},
    ]
    verdict, asked = decide(card_votes(tmp_path, num_votes=3), objects)
    assert verdict.answer == '{"city":"Ulm","tags":["a","b"],"place":{"lat":2}}'
    assert asked == 3
    assert verdict.agreement == pytest.approx(2 / 3)
    assert len(verdict.votes) == 3
    assert verdict.reasoning is None  # no vote wrote this object


def test_a_field_that_most_votes_leave_out_is_left_out(tmp_path):
    objects = [{"city": "Ulm", "tags": []}, {"city": "Ulm"}, {"city": "Ulm"}]
    verdict, _ = decide(card_votes(tmp_path, num_votes=3), objects)
    assert verdict.answer == '{"city":"Ulm"}'
    assert verdict.reasoning == "Hm."


def test_votes_by_field_stop_when_no_field_can_change(tmp_path):
    verdict, asked = decide(card_votes(tmp_path, num_votes=5), [{"city": "Ulm"}] * 3)
    assert (verdict.answer, asked) == ('{"city":"Ulm"}', 3)


def test_agreement_by_field_is_that_of_the_most_doubtful_field(tmp_path):
    objects = [{"city": name, "tags": [1]} for name in ("Ulm", "Bonn", "Ulm", "Ulm")]
    wants_all = card_votes(tmp_path, num_votes=4, min_agreement=0.9)
    assert decide(wants_all, objects)[0].reject_reason is RejectReason.LOW_AGREEMENT


def test_fields_that_do_not_fit_together_fall_back_to_whole_objects(tmp_path):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {}},
        "not": {"required": ["a", "b"], "properties": {"a": {"const": 1}, "b": {"const": 1}}},
    }
    objects = [{"a": 1, "b": 0}, {"a": 1, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 2}, {"b": 1}]
    objects = [*objects[2:], objects[0], objects[1]]
    verdict, _ = decide(card_votes(tmp_path, schema, num_votes=5), objects)
    assert verdict.answer == '{"a":1,"b":0}'
    assert verdict.agreement == pytest.approx(2 / 5)
