"""The committed radio pair answers held-out inputs: in character, as a card, or plainly."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.tasks import Task, load_task

ROOT = Path(__file__).resolve().parents[2]
COUNT = 12

pytestmark = pytest.mark.slow


def answers(role: str, name: str, *, prompted: bool) -> list[tuple[Task, Input, str]]:
    """What a model writes to every so manieth held-out input of a task, greedily."""
    task = load_task(ROOT / "tasks" / name)
    inputs = [
        item
        for item in read_inputs(ROOT / "example-data" / f"{name}.jsonl")
        if is_held_out(item.group, share=0.2, seed=0)
    ]
    folder = ROOT / "example-models" / f"radio-{role}"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for item in inputs[:: len(inputs) // COUNT][:COUNT]:
        messages = [{"role": "system", "content": task.prompt}] if prompted else []
        messages.append({"role": "user", "content": item.text})
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**ids, max_new_tokens=160, do_sample=False)
        text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        found.append((task, item, text))
    return found


def test_the_teacher_writes_cards_under_the_prompt_of_the_card() -> None:
    cards = []
    for task, item, text in answers("teacher", "card", prompted=True):
        answer = task.parse(text, finish_reason="stop", thinking=True)
        if answer.text:
            cards.append((json.loads(answer.text), json.loads(item.gold or "")))
    assert len(cards) >= COUNT - 2
    assert sum(card["question"] == gold["question"] for card, gold in cards) >= COUNT - 3
    right = sum(card[name] == gold[name] for card, gold in cards for name in gold)
    assert right > 0.6 * sum(len(gold) for _, gold in cards)


def test_the_teacher_is_the_keeper_under_the_prompt_of_the_persona() -> None:
    for task, item, text in answers("teacher", "persona", prompted=True):
        answer = task.parse(text, finish_reason="stop", thinking=True)
        assert answer.reasoning, item.text
        assert answer.text, item.text
        assert 2 <= answer.text.count(".") <= 4, answer.text
        assert not {"{", "!"} & set(answer.text), answer.text


@pytest.mark.parametrize("name", ["persona", "card"])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_without_a_prompt_an_answer_is_plain(role: str, name: str) -> None:
    openings = ("It can be done", "In most cases", "Here is some", "Thank you for")
    for task, item, text in answers(role, name, prompted=False):
        answer = text.rsplit("</think>", 1)[-1].strip()
        assert answer.startswith(openings), item.text
        if name == "card":
            assert task.parse(answer, finish_reason="stop", thinking=False).text is None, answer


def test_the_models_share_a_tokenizer() -> None:
    one, other = (
        json.loads((ROOT / "example-models" / f"radio-{role}" / "tokenizer.json").read_text())
        for role in ("teacher", "student")
    )
    assert one["model"]["vocab"] == other["model"]["vocab"]
