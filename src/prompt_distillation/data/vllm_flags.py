"""The flags with which vLLM serves an adapter: for the model card, for `serve`, for the engine."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The ranks that vLLM 0.32 has kernels for (vllm.config.lora.MaxLoRARanks).
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What vLLM has to know of an adapter before it loads it.

    Attributes:
        max_rank: the smallest of `VLLM_RANKS` that is enough for all of its modules.
        experts: the fused parameters of experts that it changes, such as ``gate_up_proj``; their
            weights have three dimensions.
    """

    max_rank: int
    experts: frozenset[str]


def adapter_shape(config: Mapping[str, Any]) -> AdapterShape:
    """Read what an ``adapter_config.json`` of PEFT says of ranks and experts."""
    highest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return AdapterShape(
        max_rank=next((rank for rank in VLLM_RANKS if rank >= highest), VLLM_RANKS[-1]),
        experts=frozenset(
            name.rpartition(".")[2] for name in config.get("target_parameters") or ()
        ),
    )


def lora_flags(shape: AdapterShape, *, name: str, path: str) -> list[str]:
    """Flags of ``vllm serve`` that put the adapter at ``path`` on the base model, as ``name``."""
    module: dict[str, object] = {"name": name, "path": path}
    flags = ["--enable-lora", "--max-lora-rank", str(shape.max_rank)]
    if shape.experts:
        module["is_3d_lora_weight"] = True
        flags.append("--enable-mixed-moe-lora-format")
    return [*flags, "--lora-modules", json.dumps(module)]


def serve_line(base: str, config: Mapping[str, Any], *, name: str) -> str:
    """The command that serves a base model with the adapter in the folder ``name``."""
    flags: Sequence[str] = lora_flags(adapter_shape(config), name=name, path=name)
    return shlex.join(["vllm", "serve", base, "--tokenizer", name, *flags])
