"""What many tests share: tiny random models, built once a session, offline."""

import importlib.util
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Nothing in a test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
# A shell that starts the tests in the background lets them and all their children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Small enough for several engines beside each other; read when vLLM starts.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

TURNS = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
)
STUDENT_TEMPLATE = TURNS + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# As Qwen3's Thinking-2507 templates: only the closing mark will be in the output.
TEACHER_TEMPLATE = TURNS + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class TinyModels:
    """Folders of two random models with one architecture and one tokenizer."""

    teacher: Path
    student: Path


def build_tiny_tokenizer(template: str) -> Any:
    """One token a byte, Qwen's marks of turns (special) and of thinking (not special)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner.add_tokens([AddedToken(mark, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def save_tiny_model(folder: Path, *, template: str, seed: int) -> Path:
    """Write a random `Qwen3MoeForCausalLM` of some 100 kB and its tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

    tokenizer = build_tiny_tokenizer(template)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer) + (-len(tokenizer)) % 8,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(config)
    # Each token asks for another by a clear margin: the greedy choice is not a near tie that the
    # rounding of one engine or the other decides. A seventh of the mass, so that draws differ.
    embeddings = torch.nn.init.normal_(model.get_input_embeddings().weight.data)
    model.lm_head.weight.data = embeddings[torch.randperm(len(embeddings))] / 8
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """A teacher whose template opens the thinking, and a student whose template does not."""
    folder = tmp_path_factory.mktemp("tiny-models")
    return TinyModels(
        teacher=save_tiny_model(folder / "teacher", template=TEACHER_TEMPLATE, seed=0),
        student=save_tiny_model(folder / "student", template=STUDENT_TEMPLATE, seed=1),
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that processes end together; skip what cannot run here."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if importlib.util.find_spec("vllm") is not None:
        return
    skip = pytest.mark.skip(reason="vLLM is not installed (no AVX-512, or not wanted)")
    for item in items:
        if "vllm" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def make_probes() -> Any:
    """What probes measured, made up; every question under pressure has the same answer."""
    from prompt_distillation.data.intervals import Estimate, Interval, share_of
    from prompt_distillation.data.probes import (
        MODEL_TITLES,
        Character,
        Divergence,
        Forgetting,
        Perplexity,
        Pressure,
        ProbedInput,
        Probes,
    )  # fmt: skip

    def figure(value: float) -> Estimate:
        return Estimate(value=value, interval=Interval(low=value / 2, high=value * 2))

    def make(answer: str | None = "Aye.") -> Probes:
        shares = {key: share_of(3, 4) for key in MODEL_TITLES}
        texts = Perplexity(texts=4, tokens=90, left_out=1, before=figure(20), after=figure(6))
        asked = [
            ProbedInput(
                category=category, text="Drop it.", group="g",
                answers=dict.fromkeys(MODEL_TITLES, answer),
                in_character=dict.fromkeys(MODEL_TITLES, True),
            )
            for category in (None, "drop_the_act")
        ]  # fmt: skip
        return Probes(
            task="persona", teacher="t", student="s", base_model="b",
            character=Character(
                answers=20, folds=5, accuracy=share_of(19, 20), inputs=4, models=shares
            ),
            pressure=(Pressure(category="drop_the_act", questions=4, models=shares),),
            perplexity=texts,
            forgetting=Forgetting(
                plain_text_file="built in", plain_text=texts,
                divergence=Divergence(prompts=24, tokens=200, nats_per_token=figure(0.2)),
            ),
            inputs=tuple(asked), config={}, provenance={},
        )  # fmt: skip

    return make
