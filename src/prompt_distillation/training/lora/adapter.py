"""The LoRA configuration, and the table of what it trains."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from prompt_distillation.training.lora.targets import Targets, kind_of

ExpertLora = Literal["auto", "activations", "folded"]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How large the adapter is.

    Attributes:
        rank: of linear layers.
        alpha: the update is scaled by alpha / rank.
        expert_rank: of each expert in a fused stack.
        targets: ``all-linear``, ``attention``, or names separated by commas.
        expert_lora: how the update of a fused expert is applied (`expert_lora.set_expert_lora`).
    """

    rank: int
    alpha: int
    expert_rank: int | None
    targets: str
    expert_lora: ExpertLora = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainedKind:
    """One line of the table: tensors of one kind that are trained.

    Attributes:
        kind: e.g. ``self_attn.q_proj`` or ``mlp.experts.down_proj``.
        rank: of the adapter; None where the tensor itself is trained.
        count: how many tensors (layers) are adapted.
        parameters: trainable numbers in all of them.
    """

    kind: str
    rank: int | None
    count: int
    parameters: int


def lora_config(settings: LoraSettings, targets: Targets, *, expert_rank: int) -> Any:
    """PEFT's configuration, with a rank of their own for fused experts.

    Dropout is 0: PEFT cannot apply it to fused experts (0.21.2, ``lora.ParamWrapper``).
    """
    from peft import LoraConfig, TaskType

    # PEFT warns that a rank_pattern for a parameter "was ignored", though it is not (0.21.2). So
    # the experts' rank is the default and the linear layers' stands in the pattern.
    mixed = bool(targets.parameters and targets.modules) and expert_rank != settings.rank
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=expert_rank if targets.parameters else settings.rank,
        rank_pattern=dict.fromkeys(targets.modules, settings.rank) if mixed else {},
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        # PEFT reads None as "its own default for this family", an empty list as "none".
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        fan_in_fan_out=targets.transposed,
    )


def trained_kinds(model: Any) -> list[TrainedKind]:
    """What a model, adapted or not, will train: one line per kind of tensor, in model order."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        return _sum_up(_adapted(model))
    return _sum_up(
        (kind_of(name), None, parameter.numel())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable and all parameters."""
    trainable = total = 0
    for parameter in model.parameters():
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return trainable, total


def _adapted(model: Any) -> Iterable[tuple[str, int | None, int]]:
    """``(kind, rank, parameters)`` of every adapted layer or fused stack."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        kind = kind_of(name.removeprefix("base_model.model."))
        if isinstance(module, ParamWrapper):
            # The stacks of one module wrap each other: experts, experts.base_layer, ...
            kind = f"{kind.replace('.base_layer', '')}.{module.parameter_name}"
        size = sum(
            layer.weight.numel()
            for group in (module.lora_A, module.lora_B)
            for layer in group.values()
        )
        yield kind, next(iter(module.r.values())), size


def _sum_up(tensors: Iterable[tuple[str, int | None, int]]) -> list[TrainedKind]:
    sums: dict[tuple[str, int | None], tuple[int, int]] = {}
    for kind, rank, size in tensors:
        count, parameters = sums.get((kind, rank), (0, 0))
        sums[kind, rank] = (count + 1, parameters + size)
    return [
        TrainedKind(kind=kind, rank=rank, count=count, parameters=parameters)
        for (kind, rank), (count, parameters) in sums.items()
    ]
