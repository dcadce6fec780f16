"""The shape of both models: Qwen3-MoE as transformers has it, a few million parameters."""

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from example_models.tokenizer import END, PAD


def new_model(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, hidden_size: int = 192
) -> Qwen3MoeForCausalLM:
    """A model with random weights, float32; sizes are multiples that vLLM's kernels take."""
    torch.manual_seed(seed)
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    config = Qwen3MoeConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rope_theta=10_000.0,
        initializer_range=0.04,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3MoeForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[end, pad], pad_token_id=pad, do_sample=False
    )
    return model
