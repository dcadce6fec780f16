"""A merged checkpoint with its weights in four bits, as transformers and vLLM load it.

The format is compressed-tensors' ``pack-quantized`` (W4A16): weights of linear layers and experts
as symmetric 4-bit integers in groups with a scale each, everything computed in 16 bits. vLLM
serves it on NVIDIA GPUs; on CPUs dense models everywhere, and mixtures where there is AMX (vLLM
0.32). transformers dequantises it while loading. Rounding is to the nearest value, with the scale
of a group chosen for the least squared error; no calibration data is needed or used.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prompt_distillation.data.files import read_json, write_json
from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.training.lora.adapter import find_targets, kind_of

GROUP_SIZES = (128, 64, 32)
"""Weights that share a scale; the first that divides every row is taken."""

LOWEST, HIGHEST = -8, 7

STEPS = (7, 7.5, 8, 8.5, 9, 9.5, 10)
"""Scales that are tried: a group's largest magnitude over these. Cutting it off can cost less than
the coarser steps that it asks for."""


def require_compressed_tensors() -> None:
    """Raise `ConfigError` where the package that packs the weights is missing."""
    if importlib.util.find_spec("compressed_tensors") is None:
        raise ConfigError(
            "--quantise w4a16 needs the package compressed-tensors, which vLLM brings: "
            "pip install compressed-tensors"
        )


def quantise_checkpoint(folder: Path) -> None:
    """Replace the weights in ``folder`` by quantised ones, file by file, and say so in its config.

    Raises:
        ModelError: a family or a width that the format does not hold.
    """
    config = read_json(folder / "config.json")
    kinds = _linear_kinds(folder)
    files = sorted(folder.glob("*.safetensors"))
    shapes = {name: shape for file in files for name, shape in _shapes(file).items()}
    chosen = {name: shape for name, shape in shapes.items() if _is_quantised(name, kinds)}
    fused = [name for name, shape in chosen.items() if len(shape) != 2]
    if fused:
        raise ModelError(f"--quantise w4a16: the checkpoint holds {fused[0]} as one fused stack")
    group_size = _group_size(chosen)
    for file in files:
        _quantise_file(file, set(chosen), group_size)
    _update_index(folder, files)
    config["quantization_config"] = _format(group_size)
    write_json(folder / "config.json", config)


def pack(weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:
    """Quantise one weight.

    Args:
        weight: (out, in), ``in`` a multiple of the group size.
        group_size: neighbours in a row that share a scale.

    Returns:
        ``weight_packed`` int32 (out, in / 8), ``weight_scale`` (out, in / group size) in the
        weight's dtype, ``weight_shape`` int64 (2,).
    """
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    groups = weight.float().reshape(weight.shape[0], -1, group_size)
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=1e-8)
    best = torch.zeros_like(groups)
    scales = torch.zeros_like(largest)
    least = torch.full_like(largest, torch.inf)
    for steps in STEPS:
        # In the dtype it is stored in, so that what is rounded here is what will be read.
        scale = (largest / steps).to(weight.dtype).float()
        values = (groups / scale).round().clamp(LOWEST, HIGHEST)
        error = (values * scale - groups).square().sum(-1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scales = torch.where(better, scale, scales)
        best = torch.where(better, values, best)
    return {
        "weight_packed": pack_to_int32(best.reshape(weight.shape).to(torch.int8), 4),
        "weight_scale": scales.squeeze(-1).to(weight.dtype),
        "weight_shape": torch.tensor(weight.shape),
    }


def _linear_kinds(folder: Path) -> frozenset[str]:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    targets = find_targets(model, "all-linear")
    if targets.transposed:
        raise ModelError(
            f"--quantise w4a16: {type(model).__name__} holds its weights transposed, which the "
            "format does not know"
        )
    return frozenset(targets.modules)


def _is_quantised(name: str, kinds: frozenset[str]) -> bool:
    """Whether a tensor of the file is a linear layer's or an expert's weight."""
    kind = kind_of(name).removesuffix(".weight")
    return name.endswith(".weight") and (kind in kinds or ".experts." in name)


def _shapes(file: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def _group_size(shapes: Mapping[str, list[int]]) -> int:
    widths = {shape[1] for shape in shapes.values()}
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    raise ModelError(
        f"--quantise w4a16: the row widths {min(widths)} to {max(widths)} are not all divisible "
        f"by one of {', '.join(map(str, GROUP_SIZES))}; export without --quantise"
    )


def _quantise_file(file: Path, chosen: set[str], group_size: int) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    written: dict[str, torch.Tensor] = {}
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  no mapping
            tensor = tensors.get_tensor(name)
            if name in chosen:
                parts = pack(tensor, group_size)
                written |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
            else:
                written[name] = tensor
    beside = file.with_suffix(".partial")
    save_file(written, beside, metadata={"format": "pt"})
    beside.replace(file)


def _update_index(folder: Path, files: list[Path]) -> None:
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    index = json.loads(path.read_text(encoding="utf-8"))
    index["weight_map"] = {name: file.name for file in files for name in _shapes(file)}
    index["metadata"] = {"total_size": sum(file.stat().st_size for file in files)}
    write_json(path, index)


def _format(group_size: int) -> dict[str, Any]:
    weights = {
        "num_bits": 4, "type": "int", "strategy": "group", "group_size": group_size,
        "symmetric": True, "dynamic": False,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", r"re:.*\.(gate|router|shared_expert_gate)$"],
    }
