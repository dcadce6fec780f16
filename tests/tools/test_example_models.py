"""The committed example models: small, bf16, and with templates that behave as Qwen's do."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerFast

MODELS = Path(__file__).resolve().parents[2] / "example-models"
ROLES = ("teacher", "student", "radio-teacher", "radio-student")
GENERATION_PROMPT = {
    "teacher": "<|im_start|>assistant\n<think>\n",
    "student": "<|im_start|>assistant\n",
}
TEXTS = (
    "Heute Morgen habe ich schon wieder meinen Schirm im Bus liegen lassen.",
    "今天早上我又把雨伞落在公交车上了。",
    "आज सुबह मैं फिर अपना छाता बस में भूल आया।",
    "  x += 1  # une ligne de plus\n",
    "🎉 @tom_w 12:30",
)


def load_tokenizer(role: str) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODELS / role)


def encoded(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **how: bool
) -> list:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how)


@pytest.mark.parametrize("role", ROLES)
def test_transformers_4_finds_its_own_names(role: str) -> None:
    config = json.loads((MODELS / role / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["num_experts"] == config["num_local_experts"]
    tokenizer = json.loads((MODELS / role / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("role", ROLES)
def test_folder_is_at_most_eight_megabytes(role: str) -> None:
    assert sum(file.stat().st_size for file in (MODELS / role).iterdir()) <= 8_000_000


@pytest.mark.parametrize("role", ROLES)
def test_config_is_a_qwen3_moe_with_room_for_the_prompt(role: str) -> None:
    config = json.loads((MODELS / role / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert config["max_position_embeddings"] >= 8192
    assert config["head_dim"] in (32, 64, 128)


@pytest.mark.parametrize("role", ROLES)
def test_every_weight_is_bfloat16_and_finite(role: str) -> None:
    with safe_open(MODELS / role / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dict
            tensor = weights.get_tensor(name)
            assert str(tensor.dtype) == "torch.bfloat16", name
            assert bool(tensor.isfinite().all()), name


@pytest.mark.parametrize("role", ROLES)
def test_generation_stops_at_the_end_of_the_turn_and_of_the_text(role: str) -> None:
    tokenizer = load_tokenizer(role)
    settings = json.loads((MODELS / role / "generation_config.json").read_text(encoding="utf-8"))
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert settings["eos_token_id"] == ends
    assert settings["pad_token_id"] == ends[1]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("role", ROLES)
def test_thinking_marks_are_one_token_and_survive_skipping_special_tokens(role: str) -> None:
    tokenizer = load_tokenizer(role)
    ids = tokenizer("<think>\nso\n</think>\n\nx<|im_end|>", add_special_tokens=False).input_ids
    assert tokenizer.convert_tokens_to_ids("</think>") in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\nso\n</think>\n\nx"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_decode_to_the_text(role: str, text: str) -> None:
    tokenizer = load_tokenizer(role)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("role", ROLES)
def test_generation_prompt_ends_as_qwens_does(role: str) -> None:
    messages = [{"role": "system", "content": "Label it."}, {"role": "user", "content": "hello"}]
    text = load_tokenizer(role).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    head = "<|im_start|>system\nLabel it.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
    assert text == head + GENERATION_PROMPT[role.removeprefix("radio-")]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("role", "answer"),
    [
        ("student", "de"),
        ("student", "A whole sentence."),
        ("teacher", "Latin letters.\n</think>\n\nFinal Answer: de"),
        ("teacher", "<think>\nLatin letters.\n</think>\n\nFinal Answer: de"),
        ("teacher", "Final Answer: de"),
    ],
)
def test_prompt_tokens_are_a_prefix_of_the_whole_conversation(
    role: str, answer: str, text: str
) -> None:
    tokenizer = load_tokenizer(role)
    question = [{"role": "user", "content": text}]
    prompt = encoded(tokenizer, question, add_generation_prompt=True)
    whole = encoded(tokenizer, [*question, {"role": "assistant", "content": answer}])
    assert whole[: len(prompt)] == prompt
    assert len(whole) > len(prompt)


def test_teacher_forgets_the_thinking_of_earlier_turns() -> None:
    messages = [
        {"role": "user", "content": "hallo"},
        {"role": "assistant", "content": "I wonder.\n</think>\n\nFinal Answer: de"},
        {"role": "user", "content": "bonjour"},
    ]
    text = load_tokenizer("teacher").apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert "<|im_start|>assistant\nFinal Answer: de<|im_end|>\n" in text
    assert "wonder" not in text


@pytest.mark.parametrize("role", ROLES)
def test_model_card_opens_with_front_matter_and_says_what_it_does_not_prove(role: str) -> None:
    card = (MODELS / role / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "transformers"
    assert "proves nothing about Qwen3" in " ".join(card.split())


@pytest.mark.parametrize("role", ROLES)
def test_manifest_says_how_it_was_built(role: str) -> None:
    manifest = json.loads((MODELS / role / "build.json").read_text(encoding="utf-8"))
    assert manifest["role"] == role.removeprefix("radio-")
    assert manifest["plan"]["steps"] > 0
    assert manifest["log"]
    assert {"seed", "held_out", "prompt_sha256", "provenance"} <= manifest.keys()
