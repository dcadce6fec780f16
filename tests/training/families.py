"""Tiny random models of the families that students come from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

SHAPE = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
LINEAR_ATTENTION = {
    "num_hidden_layers": 4, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
SHARED = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
GROUPS = {"n_group": 1, "topk_group": 1}

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "num_experts": 4}),
    "qwen3_moe_dense_layer": (
        "Qwen3MoeConfig", {**EXPERTS, "num_experts": 4, "mlp_only_layers": [0]},
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**EXPERTS, **LINEAR_ATTENTION, "num_experts": 4, "shared_expert_intermediate_size": 24},
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        {**EXPERTS, **LINEAR_ATTENTION, "num_experts": 4, "shared_expert_intermediate_size": 24},
    ),
    "glm4_moe": ("Glm4MoeConfig", {**EXPERTS, **SHARED, **GROUPS}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **EXPERTS, **SHARED, **GROUPS, "q_lora_rank": 16, "kv_lora_rank": 16,
            "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8,
            "num_key_value_heads": 2,
        },
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3": ("Qwen3Config", {}),
    "llama": ("LlamaConfig", {}),
    "gemma2": ("Gemma2Config", {}),
    "gemma3": ("Gemma3TextConfig", {}),
}  # fmt: skip


def build_family(name: str, *, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """The same random model for the same seed."""
    config_type, values = CONFIGS[name]
    make: Callable[..., Any] = getattr(transformers, config_type)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(make(**{**SHAPE, **values, **changes}))
