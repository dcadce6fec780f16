"""A tiny Qwen3-MoE with a Qwen-like tokenizer, built where tests need it."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

# The shape of Qwen3-Instruct-2507's template: no default system turn, a line feed after each turn.
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

SENTENCES = ("Where is the station?", "Wo ist der Bahnhof?", "Où est la gare ?", "¿Dónde está?")
LABELS = ("en", "de", "fr", "es")


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *LABELS, "system user assistant"] * 10, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def build_student(
    kind: str, vocabulary: int, *, seed: int = 0, hidden: int = 32
) -> torch.nn.Module:
    """A random model: ``qwen3_moe``, ``qwen3`` or ``gpt2``."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
        ids = {"bos_token_id": 0, "eos_token_id": 2}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **shape, **ids, **dropout))
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,  # the least that vLLM on a CPU takes
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**shape, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2)
    )


def save_student(folder: Path, kind: str = "qwen3_moe", *, hidden: int = 32) -> Path:
    tokenizer = build_tokenizer()
    build_student(kind, len(tokenizer), hidden=hidden).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int) -> Path:
    """Chat rows of different lengths, one JSON object a line."""
    rows = []
    for i in range(count):
        text = " ".join([SENTENCES[i % 4]] * (1 + i % 3)) + f" {i}"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": LABELS[i % 4]},
                ]
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
