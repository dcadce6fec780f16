"""The committed GPT-2 pair: small, dense, of one vocabulary, and without a chat template."""

import importlib
import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "example-models"
ROLES = ("gpt2-teacher", "gpt2-student")


def test_the_pair_is_at_most_six_megabytes() -> None:
    files = [file for role in ROLES for file in (MODELS / role).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 6_000_000


@pytest.mark.parametrize("role", ROLES)
def test_it_is_a_dense_gpt2_in_bfloat16(role: str) -> None:
    config = json.loads((MODELS / role / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]
    with safe_open(MODELS / role / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dict
            tensor = weights.get_tensor(name)
            assert str(tensor.dtype) == "torch.bfloat16", name
            assert bool(tensor.isfinite().all()), name


def test_both_have_one_vocabulary_and_neither_a_template_as_gpt2_has() -> None:
    teacher, student = (AutoTokenizer.from_pretrained(MODELS / role) for role in ROLES)
    assert teacher.get_vocab() == student.get_vocab()
    for tokenizer in (teacher, student):
        assert tokenizer.chat_template is None
        assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
        assert tokenizer.pad_token is None
        text = 'Is |0> + |1> normalised?\n{"answer":"-1/2"}'
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("role", ROLES)
def test_card_and_manifest_say_what_it_is(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    card = importlib.import_module("example_models.gpt2_cards").gpt2_card(role[len("gpt2-") :])
    assert (MODELS / role / "README.md").read_text(encoding="utf-8") == card
    assert "proves nothing about GPT-2" in " ".join(card.split())
    manifest = json.loads((MODELS / role / "build.json").read_text(encoding="utf-8"))
    assert f"{manifest['parameters'] / 1e6:.1f} million parameters" in card
    assert manifest["held_out"] == {"share": 0.2, "seed": 0}


def test_questions_by_rule_have_one_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    physics = importlib.import_module("example_models.physics")
    rng = random.Random(0)
    for _ in range(2000):
        question = rng.choice(physics._WRITERS)(rng)
        assert len({question.answer, *question.wrong}) == 1 + len(question.wrong) >= 4, question
