"""How vLLM is given an adapter: beside the base model on a GPU where it can, merged elsewhere."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.checkpoints import ADAPTER_CONFIG, merge_adapter
from prompt_distillation.engines.base import EngineOptions

# The ranks that vLLM 0.32 has kernels for (vllm.config.lora.MaxLoRARanks).
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, kw_only=True)
class LiveAdapter:
    """An adapter that vLLM applies while it runs.

    Attributes:
        path: its folder.
        max_rank: the smallest of `VLLM_RANKS` that holds it.
        on_experts: whether it changes fused experts, whose weights have three dimensions.
    """

    path: Path
    max_rank: int
    on_experts: bool


def live_adapter(adapter: Path, *, device: str) -> LiveAdapter | None:
    """Describe ``adapter`` if vLLM can apply it itself; None where it has to be merged.

    Without a GPU, vLLM 0.32 has no LoRA kernels for mixtures of experts. And it reads one rank
    and one alpha for a whole adapter, so that per-module patterns would be scaled wrongly.
    """
    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    ranks = [rank for rank in VLLM_RANKS if rank >= int(config["r"])]
    patterns = config.get("rank_pattern") or config.get("alpha_pattern")
    if device == "cpu" or patterns or not ranks:
        return None
    return LiveAdapter(
        path=adapter.resolve(),
        max_rank=ranks[0],
        on_experts=bool(config.get("target_parameters")),
    )


@dataclass(frozen=True, kw_only=True)
class MergedModel:
    """A full model in a temporary folder, to be cleaned up by who asked for it."""

    options: EngineOptions
    folder: "tempfile.TemporaryDirectory[str]"


def merge_to_temporary(options: EngineOptions) -> MergedModel:
    """Write the model with its adapter merged; ``options`` come back pointing at it.

    Raises:
        ModelError: one of the two cannot be loaded, or they do not fit.
    """
    assert options.adapter is not None
    folder = tempfile.TemporaryDirectory(prefix="prompt-distillation-merged-")
    try:
        merged = merge_adapter(
            options.model,
            options.adapter,
            Path(folder.name),
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
    except BaseException:
        folder.cleanup()
        raise
    return MergedModel(
        options=replace(options, model=str(merged), adapter=None, revision=None), folder=folder
    )
