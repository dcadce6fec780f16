"""Configurations of real models, for what is counted and not run."""

from transformers import Qwen3MoeConfig


def qwen3_30b_a3b() -> Qwen3MoeConfig:
    """Qwen3-30B-A3B's."""
    return Qwen3MoeConfig(
        vocab_size=151936, hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128,
        num_experts_per_tok=8,
    )  # fmt: skip
