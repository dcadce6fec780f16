"""How much arithmetic a token costs, and how much a device can do: model-FLOPs utilisation."""

from typing import Any

from prompt_distillation.training.lora.adapter import (
    active_experts,
    expert_kinds,
    kind_of,
    number_of_experts,
)


def active_parameters(model: Any) -> tuple[int, int]:
    """Parameters that work on one token: all of them, and the trained ones among them.

    An expert counts by the share of tokens it sees. The input embedding is a look-up and does no
    arithmetic, unless it is also the output's.
    """
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    experts = number_of_experts(base.config)
    share = active_experts(base.config) / experts if experts else 1.0
    stacks = expert_kinds(base) if experts else ()
    embedding = base.get_input_embeddings().weight
    tied = embedding is base.get_output_embeddings().weight
    active = trained = 0.0
    for name, parameter in model.named_parameters():
        if parameter is embedding and not tied:
            continue
        in_expert = ".experts." in name or kind_of(name) in stacks
        size = parameter.numel() * (share if in_expert else 1.0)
        active += size
        trained += size if parameter.requires_grad else 0.0
    return int(active), int(trained)


def training_flops_per_token(model: Any) -> float:
    """Operations of a training step per token, without recomputation and attention scores.

    2 for the forward pass and 2 for the gradient of the activations of each active parameter, and
    2 more for the gradient of each trained one (Kaplan et al., 2020, section 2.1).
    """
    active, trained = active_parameters(model)
    return 4.0 * active + 2.0 * trained


def peak_flops(device: Any) -> float | None:
    """The device's dense bfloat16 peak per second by TRL's table; None where it is not known."""
    import torch
    from trl.trainer.utils import get_peak_flops

    if device.type != "cuda":
        return None
    peak: float | None = get_peak_flops(torch.cuda.get_device_name(device), "bfloat16")
    return peak
