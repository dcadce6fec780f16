"""Which tensors are adapted: by purpose (``all-linear``, ``attention``) or by name.

``all-linear`` means every linear layer of the blocks and every expert, fused or not, but neither
the output embedding (TRL scores with its weight directly) nor the router (a router that moves away
from its experts is the classic way to break a mixture of experts with little data).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from prompt_distillation.errors import ConfigError

ALL_LINEAR = "all-linear"
ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Names that PEFT understands, each a suffix of full names.

    Attributes:
        modules: linear layers, e.g. ``self_attn.q_proj``.
        parameters: fused expert stacks (3-D parameters), e.g. ``mlp.experts.down_proj``.
        transposed: the linear layers hold (in, out) weights, as GPT-2's do.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
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
    return replace(chosen, transposed=_holds_transposed(model))


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


def _holds_transposed(model: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _kinds(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind_of(name) for name in names))


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape; ZeRO-3 leaves the parameter itself empty, and notes what it stands for."""
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
