"""The inputs of the tasks persona and card, and the gold answers that are computed."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
CALLS = ROOT / "example-data" / "card.jsonl"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("example_models.cards")


def test_calls_are_those_that_are_drawn(cards: ModuleType) -> None:
    rows = [json.loads(line) for line in CALLS.read_text(encoding="utf-8").splitlines()]
    assert rows == list(cards.draw_calls(1200, seed=0))


def test_gold_cards_are_computed_from_the_calls_and_valid(cards: ModuleType) -> None:
    task = load_task(ROOT / "tasks" / "card")
    for call in read_inputs(CALLS):
        assert call.gold == cards.canonical(cards.card_of(call.text))
        assert task.require_answer(call.gold, where=call.text) == call.gold


@pytest.mark.parametrize(
    ("text", "card"),
    [
        (
            "Kestrel here, 6 miles out, how is the wind?",
            {"question": True, "length": "medium", "boat": "Kestrel", "numbers": [6],
             "urgent": False},
        ),
        (
            "Fire in the engine room!",
            {"question": False, "length": "short", "boat": None, "numbers": [], "urgent": True},
        ),
    ],
)  # fmt: skip
def test_the_examples_of_the_prompt_follow_its_rules(cards, text, card) -> None:
    assert cards.card_of(text) == card
    prompt = load_task(ROOT / "tasks" / "card").prompt
    assert f"Call: {text}\n{cards.canonical(card)}" in prompt


@pytest.mark.parametrize("name", ["persona", "card"])
def test_a_fifth_of_the_patterns_is_enough_to_measure_on(name: str) -> None:
    inputs = list(read_inputs(ROOT / "example-data" / f"{name}.jsonl"))
    held_out = [item for item in inputs if is_held_out(item.group, share=0.2, seed=0)]
    assert len({item.text for item in inputs}) == len(inputs)
    assert 0.1 < len(held_out) / len(inputs) < 0.3
