"""What an adapter is put on, PEFT's configuration for it, and the proof that PEFT did so.

``all-linear`` means every linear layer of the blocks and every expert, fused or not, but neither
the output embedding (TRL scores with its weight directly) nor the router (a router that moves away
from its experts is the classic way to break a mixture of experts with little data).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.errors import ConfigError, ModelError

ALL_LINEAR = "all-linear"
ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Names that PEFT understands, each a suffix of full names.

    Attributes:
        modules: linear layers, e.g. ``self_attn.q_proj``.
        parameters: fused expert stacks (3-D parameters), e.g. ``mlp.experts.down_proj``.
        by_weight: those of ``modules`` that PEFT must be given by their weight's name
            (`_renamed_by_peft`).
        transposed: the linear layers hold (in, out) weights, as GPT-2's do.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    by_weight: frozenset[str] = frozenset()
    transposed: bool = False


def find_targets(model: Any, spec: str) -> Targets:
    """Turn ``--lora_targets`` into names.

    Args:
        model: a transformers causal language model (weights may be on the meta device).
        spec: ``all-linear``, ``attention``, or names (or ends of names) separated by commas.

    Raises:
        ConfigError: a name that no layer has, or a model without any linear layer.
    """
    modules, parameters = linear_kinds(model), expert_kinds(model)
    if spec == ALL_LINEAR:
        chosen = Targets(modules=modules, parameters=parameters)
    elif spec == ATTENTION:
        attention = tuple(name for name in modules if "attn" in name or "attention" in name)
        chosen = Targets(modules=attention, parameters=())
    else:
        chosen = _named(spec, modules, parameters)
    if not chosen.modules and not chosen.parameters:
        raise ConfigError(
            f"--lora_targets {spec}: {type(model).__name__} has no such layer; it has "
            f"{', '.join(modules + parameters)}"
        )
    from transformers.pytorch_utils import Conv1D

    return replace(
        chosen,
        by_weight=_renamed_by_peft(model, chosen.modules),
        transposed=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def linear_kinds(model: Any) -> tuple[str, ...]:
    """Kinds of linear layers inside the blocks, without routers and the output embedding."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    num_experts = number_of_experts(model.config)
    names = (
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D)  # GPT-2's linear layers are Conv1D
        and module is not output
        and not _is_router(name, module, num_experts)
    )
    return _kinds(names)


def expert_kinds(model: Any) -> tuple[str, ...]:
    """Kinds of fused expert stacks: parameters of shape (experts, out, in)."""
    num_experts = number_of_experts(model.config)
    shapes = ((name, _whole_shape(parameter)) for name, parameter in model.named_parameters())
    return _kinds(
        name
        for name, shape in shapes
        if num_experts and len(shape) == 3 and shape[0] == num_experts
    )


def number_of_experts(config: Any) -> int | None:
    """Experts per layer by any of the names that model families use; None for a dense model."""
    values = config.get_text_config().to_dict()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((values[name] for name in names if values.get(name)), None)


def active_experts(config: Any) -> int:
    """Experts that work on each token; 1 for a dense model."""
    values = config.get_text_config().to_dict()
    return int(values.get("num_experts_per_tok") or values.get("experts_per_token") or 1)


def default_expert_rank(config: Any, rank: int) -> int:
    """The rank over the active experts, at least 1.

    So the adapter's share of the parameters that work on a token is the same in the experts as
    elsewhere. The rule is that of Schulman et al., LoRA Without Regret (2025),
    https://thinkingmachines.ai/blog/lora/, for Qwen3's mixtures of experts.
    """
    return max(1, rank // active_experts(config))


def kind_of(name: str) -> str:
    """``model.layers.3.self_attn.q_proj`` -> ``self_attn.q_proj``: what follows the last number."""
    return re.split(r"\.\d+\.", f".{name}")[-1].removeprefix(".")


def _kinds(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind_of(name) for name in names))


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape; ZeRO-3 leaves the parameter itself empty, and records its shape."""
    return tuple(vars(parameter).get("ds_shape", parameter.shape))


def _is_router(name: str, module: Any, num_experts: int | None) -> bool:
    last = name.rpartition(".")[2]
    return last in {"gate", "router", "shared_expert_gate"} and (
        num_experts is not None and _whole_shape(module.weight)[0] in {1, num_experts}
    )


def _named(spec: str, modules: tuple[str, ...], parameters: tuple[str, ...]) -> Targets:
    chosen_modules: list[str] = []
    chosen_parameters: list[str] = []
    for name in filter(None, (part.strip() for part in spec.split(","))):
        found_modules = [kind for kind in modules if f".{kind}".endswith(f".{name}")]
        found_parameters = [kind for kind in parameters if f".{kind}".endswith(f".{name}")]
        if not found_modules and not found_parameters:
            raise ConfigError(
                f"--lora_targets: no layer is called {name!r}; known are {ALL_LINEAR}, "
                f"{ATTENTION}, {', '.join(modules + parameters)}"
            )
        chosen_modules += found_modules
        chosen_parameters += found_parameters
    return Targets(
        modules=tuple(dict.fromkeys(chosen_modules)),
        parameters=tuple(dict.fromkeys(chosen_parameters)),
    )


def _renamed_by_peft(model: Any, kinds: Iterable[str]) -> frozenset[str]:
    """Linear layers that PEFT would take for the experts of a checkpoint of transformers 4.

    Where a family's experts are fused, PEFT (0.21.2, ``transformers_weight_conversion``) turns
    every target that ends in ``gate_proj``, ``up_proj`` or ``down_proj`` into the fused expert
    stacks, at twice the rank: the dense and shared MLPs of GLM-4-MoE, DeepSeek-V3, Qwen3-Next and
    Qwen3-MoE would get no adapter. It does so again when the adapter is loaded. Named by their
    weights, as ``target_parameters``, they are left alone, and their tensors have the same names.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    renamed = set()
    for kind in kinds:
        config = LoraConfig(target_modules=[kind])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # one half of a fused pair, without the other
            renamed.add(kind)
        else:
            if kind not in config.target_modules:
                renamed.add(kind)
    return frozenset(renamed)


def adapt(model: Any, settings: LoraSettings) -> Any:
    """Put adapters on a transformers model, and check that they are where they should be.

    Returns:
        PEFT's model. Its adapters are float32, except under ZeRO-3.

    Raises:
        ConfigError: targets that the model does not have, or a rank larger than every layer.
        ModelError: PEFT adapts other layers than were asked for.
    """
    from peft import get_peft_model
    from transformers.integrations import is_deepspeed_zero3_enabled

    from prompt_distillation.training.lora.expert_lora import set_expert_lora
    from prompt_distillation.training.lora.linear_lora import set_linear_lora

    if settings.adapter_path is not None:
        return _adapt_further(model, settings.adapter_path, way=settings.expert_lora)
    targets = find_targets(model, settings.lora_targets)
    asked = _asked_ranks(model, targets, settings)
    config = lora_config(model, settings, targets)
    set_expert_lora(model, config, targets, settings.expert_lora)
    set_linear_lora(config)
    # ZeRO-3 gathers parameters into buffers of one dtype (TRL 1.16, SFTTrainer).
    adapted = get_peft_model(model, config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())
    _check_adapters(adapted, asked)
    return adapted


def _adapt_further(model: Any, folder: Path, *, way: str) -> Any:
    """Put a trained adapter on, to train it on; its file says what it adapts."""
    from peft import LoraConfig, PeftModel
    from transformers.integrations import is_deepspeed_zero3_enabled

    from prompt_distillation.training.lora.expert_lora import set_expert_lora
    from prompt_distillation.training.lora.linear_lora import set_linear_lora

    config = LoraConfig.from_pretrained(str(folder))
    named = config.target_parameters or []
    stacks = tuple(name for name in named if not name.endswith(".weight"))
    set_expert_lora(model, config, Targets(modules=(), parameters=stacks), way)
    set_linear_lora(config)
    try:
        return PeftModel.from_pretrained(
            model,
            str(folder),
            config=config,
            is_trainable=True,
            autocast_adapter_dtype=not is_deepspeed_zero3_enabled(),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the adapter at {folder} does not fit the model; pass the one that it was trained on: "
            f"{error}"
        ) from error


def lora_config(model: Any, settings: LoraSettings, targets: Targets) -> Any:
    """PEFT's configuration, with a rank of their own for fused experts.

    Dropout is 0: PEFT cannot apply it to fused experts (0.21.2, ``lora.ParamWrapper``).
    """
    from peft import LoraConfig, TaskType

    rank, expert_rank = settings.lora_rank, _expert_rank(model, settings)
    # PEFT warns that a rank_pattern for a parameter "was ignored", though it is not (0.21.2): it
    # looks for a target module that the pattern matches. So the experts' rank is the default, and
    # one pattern holds all linear layers.
    pattern = {}
    if targets.parameters and targets.modules and expert_rank != rank:
        names = "|".join(
            f"{re.escape(kind)}(\\.weight)?" if kind in targets.by_weight else re.escape(kind)
            for kind in targets.modules
        )
        pattern = {f"({names})": rank}
    weights = (f"{kind}.weight" for kind in targets.modules if kind in targets.by_weight)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=expert_rank if targets.parameters else rank,
        rank_pattern=pattern,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        # PEFT reads None as "its own default for this family", an empty list as "none".
        target_modules=[kind for kind in targets.modules if kind not in targets.by_weight],
        target_parameters=[*targets.parameters, *weights] or None,
        fan_in_fan_out=targets.transposed,
    )


def _expert_rank(model: Any, settings: LoraSettings) -> int:
    return settings.lora_expert_rank or default_expert_rank(model.config, settings.lora_rank)


def _asked_ranks(model: Any, targets: Targets, settings: LoraSettings) -> dict[str, int]:
    """Full name of each layer and stack to adapt -> its rank."""
    expert_rank = _expert_rank(model, settings)
    output = model.get_output_embeddings()
    ranks: dict[str, int] = {}
    widths: dict[str, int] = {"lora_rank": 0, "lora_expert_rank": 0}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if kind_of(owner) in targets.modules and last == "weight":
            if model.get_submodule(owner) is output:
                continue
            ranks[owner], flag = settings.lora_rank, "lora_rank"
        elif kind_of(name) in targets.parameters:
            ranks[name], flag = expert_rank, "lora_expert_rank"
        else:
            continue
        widths[flag] = max(widths[flag], min(_whole_shape(parameter)[-2:]))
    for flag, rank in (("lora_rank", settings.lora_rank), ("lora_expert_rank", expert_rank)):
        if widths[flag] and rank > widths[flag]:
            raise ConfigError(
                f"--{flag} is {rank}, and no adapted layer of {type(model).__name__} is wider than "
                f"{widths[flag]}; a larger rank only takes memory"
            )
    return ranks


def _check_adapters(adapted: Any, asked: dict[str, int]) -> None:
    found = {name: rank for name, rank, _ in _adapted(adapted)}
    if found == asked:
        return
    differences = [
        f"{name} has {'no adapter' if found.get(name) is None else f'rank {found[name]}'} instead "
        f"of {f'rank {asked[name]}' if name in asked else 'none'}"
        for name in sorted({*found, *asked})
        if found.get(name) != asked.get(name)
    ]
    raise ModelError(
        f"PEFT adapts other layers of {type(adapted.get_base_model()).__name__} than were asked "
        f"for: {'; '.join(differences[:3])}"
        f"{f'; and {len(differences) - 3} more' if len(differences) > 3 else ''}; name layers that "
        "it can adapt with --lora_targets, e.g. attention"
    )


@dataclass(frozen=True, kw_only=True)
class TrainedKind:
    """One line of the table: tensors of one kind that are trained."""

    kind: str
    rank: int | None
    count: int
    parameters: int


def trained_kinds(model: Any) -> list[TrainedKind]:
    """What a model, adapted or not, will train: one line per kind of tensor, in model order."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        return _sum_up((kind_of(name), rank, size) for name, rank, size in _adapted(model))
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


def _adapted(model: Any) -> Iterator[tuple[str, int, int]]:
    """``(full name, rank, parameters)`` of every adapted layer and fused stack."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        # The stacks of one module wrap each other: experts, experts.base_layer, ...
        name = name.replace(".base_layer", "")
        if isinstance(module, ParamWrapper) and len(_whole_shape(module.get_param())) == 3:
            name = f"{name}.{module.parameter_name}"
        size = sum(
            layer.weight.numel()
            for group in (module.lora_A, module.lora_B)
            for layer in group.values()
        )
        yield name, next(iter(module.r.values())), size


def _sum_up(tensors: Iterable[tuple[str, int | None, int]]) -> list[TrainedKind]:
    sums: dict[tuple[str, int | None], tuple[int, int]] = {}
    for kind, rank, size in tensors:
        count, parameters = sums.get((kind, rank), (0, 0))
        sums[kind, rank] = (count + 1, parameters + size)
    return [
        TrainedKind(kind=kind, rank=rank, count=count, parameters=parameters)
        for (kind, rank), (count, parameters) in sums.items()
    ]
