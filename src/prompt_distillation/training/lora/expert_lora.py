"""The adapters of fused experts, applied to the tokens that are routed to them.

PEFT folds the update of every expert into the whole stack before each forward pass (0.21.2,
``lora.ParamWrapper``): a second stack is written for however few tokens, autograd keeps it, and its
full gradient is computed only to be multiplied down to the rank. Here a token's way is
``x W^T + scaling (x A^T) B^T`` with the matrices of its own expert, as in any linear layer.

The adapter stays PEFT's: its modules, its names, its file. `ParamWrapper` here is PEFT's with
another forward pass, which hands A and B to an experts implementation registered with transformers;
merging, saving, loading and switching off are inherited.
"""

import functools
import logging
from importlib.metadata import version
from typing import Any

import torch
from packaging.version import Version
from peft.tuners import lora
from transformers.integrations.moe import ExpertsInterface

from prompt_distillation.errors import ConfigError
from prompt_distillation.training.lora.adapter import Targets, kind_of
from prompt_distillation.training.lora.grouped_products import (
    AdaptedProduct,
    FrozenStack,
    LowRank,
    group_by_expert,
)

logger = logging.getLogger(__name__)

IMPLEMENTATION = "lora_on_activations"
"""Our name among transformers' experts implementations."""

TESTED_PEFT = "0.21"
"""The layout of A and B, and the experimental API that takes our wrapper, are this release's."""

_STACKS = frozenset({"gate_up_proj", "up_proj", "down_proj"})


def set_expert_lora(model: Any, config: Any, targets: Targets, way: str) -> bool:
    """Have the adapters of fused experts applied in the wanted way, once PEFT puts them on.

    Args:
        model: a transformers model, not adapted yet.
        config: PEFT's `LoraConfig` that it will be adapted by.
        targets: what that config targets.
        way: ``activations``, ``folded`` (PEFT's own), or ``auto``: the former where it can be.

    Raises:
        ConfigError: ``activations`` is asked for, and this model or PEFT's version has no such way.
    """
    if way == "folded" or not targets.parameters:
        return False
    obstacle = find_obstacle(model, targets)
    if obstacle is not None:
        if way == "activations":
            raise ConfigError(f"--expert_lora activations: {obstacle}; pass --expert_lora folded")
        _warn_once(obstacle)
        return False
    ExpertsInterface.register(IMPLEMENTATION, experts_forward)
    model.set_experts_implementation(IMPLEMENTATION)
    classes = {type(module) for module in _experts_modules(model, targets)}
    config._register_custom_module(dict.fromkeys(classes, ParamWrapper))
    return True


@functools.cache
def _warn_once(obstacle: str) -> None:
    # A plan builds the same model several times.
    logger.warning("adapters are folded into the experts on every pass: %s", obstacle)


def find_obstacle(model: Any, targets: Targets) -> str | None:
    """Why adapters of a model's experts cannot be applied to activations; None where they can."""
    if not peft_is_tested():
        return f"PEFT {version('peft')} is installed, and it was tested with {TESTED_PEFT}"
    unknown = {name.rpartition(".")[2] for name in targets.parameters} - _STACKS
    if unknown:
        return f"stacks called {', '.join(sorted(unknown))} are not known"
    for module in _experts_modules(model, targets):
        # What transformers' decorator `use_experts_implementation` gives to a module (5.19).
        if not {"has_gate", "has_bias", "is_transposed"} <= vars(module).keys():
            return f"{type(module).__name__} has a forward pass of its own in transformers"
        # transformers marks them from 5.19 on.
        if vars(module).get("_is_expert_parallel", False):
            return "the experts are spread over several devices"
    return None


def peft_is_tested() -> bool:
    """Whether PEFT is the release whose layout and wrappers were tested."""
    peft = Version(version("peft"))
    return f"{peft.major}.{peft.minor}" == TESTED_PEFT


def _experts_modules(model: Any, targets: Targets) -> list[Any]:
    parents = {name.rpartition(".")[0] for name in targets.parameters}
    return [module for name, module in model.named_modules() if kind_of(name) in parents]


class ParamWrapper(lora.ParamWrapper):  # type: ignore[misc]
    """PEFT's wrapper of one stack, which hands its adapter on instead of folding it in.

    Wrappers of the stacks of one module wrap each other; each adds its own update on the way in.
    It has the name of its parent because PEFT recognises wrappers by their class's name (0.21.2,
    ``tuners_utils.create_and_replace_param``).
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the parent's, where an adapter is active: tokens of shape (tokens, hidden)."""
        adapters = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or not adapters:
            return super().forward(x, *args, **kwargs)
        self._check_forward_args(x, *args, **kwargs)
        updates = {**kwargs.pop("updates", {}), self.parameter_name: self._low_rank(adapters)}
        return self.base_layer(x, *args, updates=updates, **kwargs)

    def _low_rank(self, adapters: list[str]) -> LowRank:
        """A and B as PEFT keeps them; those of several adapters are concatenated."""
        if len(adapters) == 1:
            (name,) = adapters
            return LowRank(self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
        into, out = [], []
        for name in adapters:
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            into.append(a.reshape(self.num_experts, -1, a.shape[1]))
            out.append(b.reshape(b.shape[0], -1, self.num_experts) * self.scaling[name])
        return LowRank(torch.cat(into, dim=1).flatten(0, 1), torch.cat(out, dim=1).flatten(1), 1.0)


def experts_forward(
    module: Any,
    hidden: torch.Tensor,
    chosen: torch.Tensor,
    weights: torch.Tensor,
    updates: dict[str, LowRank] | None = None,
) -> torch.Tensor:
    """One layer of experts, as transformers' ``grouped_mm`` computes it, adapters included.

    The routing weights are multiplied in before the second stack, which is the same by linearity:
    what autograd keeps then has the experts' width, not the model's.

    Args:
        module: an experts module of transformers; its stacks are frozen.
        hidden: (tokens, hidden).
        chosen: expert ids of shape (tokens, experts per token).
        weights: of the chosen experts, of the same shape.
        updates: name of a stack -> its adapter.

    Returns:
        (tokens, hidden), in the dtype of ``hidden``.
    """
    updates = updates or {}
    groups = group_by_expert(chosen, module.num_experts)
    first = "gate_up_proj" if module.has_gate else "up_proj"
    wide = AdaptedProduct.of(
        hidden, FrozenStack(module, first), updates.get(first), groups, gather=True
    )
    if module.has_bias:
        experts = chosen.reshape(-1)[groups.order]
        wide = wide + getattr(module, f"{first}_bias")[experts]
    gated = module._apply_gate(wide) if module.has_gate else module.act_fn(wide)
    share = weights.reshape(-1)[groups.order, None]
    narrow = AdaptedProduct.of(
        gated * share, FrozenStack(module, "down_proj"), updates.get("down_proj"), groups
    )
    if module.has_bias:
        narrow = narrow + module.down_proj_bias[experts] * share
    return groups.sum_by_token(narrow).to(hidden.dtype)
