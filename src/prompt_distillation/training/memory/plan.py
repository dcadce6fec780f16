"""A plan before the run: steps, tokens, memory, time, and the flags that make it fit the card."""

import copy
import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from prompt_distillation.data.chat_rows import read_chat_rows
from prompt_distillation.errors import ModelError
from prompt_distillation.machine import memory_bytes
from prompt_distillation.training.encode import IGNORED, EncodedRows, encode_rows, end_of_turn_ids
from prompt_distillation.training.loading import load_tokenizer
from prompt_distillation.training.lora.targets import number_of_experts
from prompt_distillation.training.memory.batches import MicroBatch
from prompt_distillation.training.memory.estimate import (
    GIB,
    MemoryAccount,
    Plan,
    account,
    base_weights,
    meta_model,
)
from prompt_distillation.training.memory.proposal import propose
from prompt_distillation.training.quantisation.base_weights import BaseBytes
from prompt_distillation.training.settings import RunSettings, micro_batch

logger = logging.getLogger(__name__)

SPARE = 0.05
"""Share of a card kept free: the allocator's fragments, which no account can know."""

SPARE_WHEN_KEPT = 0.1
"""The same where activations are kept unasked: a run that ends for want of memory is worse than a
slower one."""

ASSUMED_UTILISATION = 0.15
"""Model-FLOPs utilisation that the time estimate assumes where there are tokens enough: a cautious
guess, not a measurement."""

LAYER_SECONDS, RECOMPUTED_LAYER_SECONDS, FOUR_BIT_LAYER_SECONDS = 0.0075, 0.011, 0.041
"""What a layer of experts takes of a pass however few its tokens: its kernels are launched one by
one, and 4-bit experts are dequantised. Measured on an H200 at the shape of Qwen3-30B-A3B with 690
tokens a pass (benchmarks/training_profile.py; eight steps of recipes/small-gpu-train.yaml);
recomputing by the kernels that it adds. A dense layer launches somewhat fewer."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would be.

    Attributes:
        rows: trained on, per epoch.
        tokens: of them, per epoch.
        micro_batch: how a step is cut.
        gradient_checkpointing: whether layers are recomputed.
        steps: optimizer steps of the whole run.
        tokens_per_step: in each of them, on average.
        account: bytes per device.
        base: of it, the base model's weights, by what they are.
        base_unquantised: the same without 4 bits.
        capacity: bytes of the card it is compared with.
        proposal: flags that make it fit, and the total in bytes with them; None where it fits, or
            where nothing helps.
        seconds: an estimate; None where the device's peak is not known.
    """

    rows: int
    tokens: int
    micro_batch: MicroBatch
    gradient_checkpointing: bool
    steps: int
    tokens_per_step: float
    account: MemoryAccount
    base: BaseBytes
    base_unquantised: BaseBytes
    capacity: float
    proposal: tuple[list[str], float] | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether the account stays below the card, fragments spared."""
        return self.account.total <= self.capacity * (1 - SPARE)


def plan_run(settings: RunSettings, *, capacity_gib: float, on_gpu: bool) -> RunPlan:
    """Count a run without loading its weights.

    Raises:
        InputError: as for the run itself.
        ModelError: the model's configuration or tokenizer cannot be read.
    """
    config, data = _read(settings)

    def settled(asked: RunSettings) -> RunSettings:
        return _settled(asked, config, data, capacity_gib=capacity_gib, on_gpu=on_gpu)

    def total(asked: RunSettings) -> float:
        return account(config, _memory_plan(settled(asked), data, on_gpu=on_gpu)).total

    asked, settings = settings, settled(settings)
    plan = _memory_plan(settings, data, on_gpu=on_gpu)
    counted = account(config, plan)
    capacity = capacity_gib * GIB
    limit = capacity * (1 - SPARE)
    batch = micro_batch(settings, data)
    steps, tokens_per_step = _steps(settings, data, batch)

    passes = steps * batch.accumulation_steps
    return RunPlan(
        rows=len(data.rows),
        tokens=data.tokens,
        micro_batch=batch,
        gradient_checkpointing=plan.gradient_checkpointing,
        steps=steps,
        tokens_per_step=tokens_per_step,
        account=counted,
        base=base_weights(config, plan),
        base_unquantised=base_weights(config, replace(plan, four_bit=None)),
        capacity=capacity,
        proposal=propose(asked, total, limit=limit) if counted.total > limit else None,
        seconds=_seconds(config, plan, tokens=steps * tokens_per_step, passes=passes),
    )


def settle_checkpointing(
    settings: RunSettings,
    config: Any,
    data: EncodedRows,
    *,
    on_gpu: bool,
    capacity_gib: float | None = None,
) -> RunSettings:
    """Recompute activations unless they leave a tenth of the memory free, or the user has said.

    Args:
        settings: of the run; ``sft["gradient_checkpointing"]`` is None where it shall be settled.
        config: of the model.
        data: the rows trained on.
        on_gpu: whether it trains on a GPU.
        capacity_gib: of the device; None asks it.
    """
    if settings.sft["gradient_checkpointing"] is not None:
        return settings
    if settings.model.trust_remote_code:
        return _uncounted(settings, config, "its code is its own")
    config = copy.deepcopy(config)  # a model is built from it, and sets what it likes
    capacity_gib = memory_gib(on_gpu=on_gpu) if capacity_gib is None else capacity_gib
    try:
        return _settled(settings, config, data, capacity_gib=capacity_gib, on_gpu=on_gpu)
    except Exception as error:  # noqa: BLE001 - of any architecture; the run needs no account
        return _uncounted(settings, config, error)


def _uncounted(settings: RunSettings, config: Any, reason: object) -> RunSettings:
    logger.warning(
        "activations are recomputed: what they take cannot be counted for %s (%s); "
        "--gradient_checkpointing false keeps them",
        type(config).__name__, reason,
    )  # fmt: skip
    return _with_checkpointing(settings, True)


def memory_gib(*, on_gpu: bool) -> float:
    """All memory of this process's GPU, or its share of the machine's, in GiB.

    All of it, not what is free: that differs from run to run, and between processes.
    """
    if on_gpu:
        device = int(os.environ.get("LOCAL_RANK", "0"))
        return float(torch.cuda.get_device_properties(device).total_memory / GIB)
    return memory_bytes() / GIB / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _settled(
    settings: RunSettings, config: Any, data: EncodedRows, *, capacity_gib: float, on_gpu: bool
) -> RunSettings:
    if settings.sft["gradient_checkpointing"] is not None:
        return settings
    kept = _with_checkpointing(settings, False)
    needed = account(config, _memory_plan(kept, data, on_gpu=on_gpu)).total
    fits = needed <= capacity_gib * GIB * (1 - SPARE_WHEN_KEPT)
    return kept if fits else _with_checkpointing(settings, True)


def _with_checkpointing(settings: RunSettings, value: bool) -> RunSettings:
    return replace(settings, sft={**settings.sft, "gradient_checkpointing": value})


def _read(settings: RunSettings) -> tuple[Any, EncodedRows]:
    """The model's configuration and the encoded rows."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = load_tokenizer(settings.model, chat_template_path=settings.chat_template_path)
    try:
        config = AutoConfig.from_pretrained(
            settings.model.name, trust_remote_code=settings.model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the configuration of {settings.model.name}: {error}"
        ) from error
    generation = GenerationConfig.from_model_config(config)
    return config, encode_rows(
        read_chat_rows(settings.train_file), tokenizer,
        stop_ids=end_of_turn_ids(tokenizer, generation), max_length=settings.max_length,
    )  # fmt: skip


def _steps(settings: RunSettings, data: EncodedRows, batch: MicroBatch) -> tuple[int, float]:
    """Optimizer steps of the run, and tokens in each."""
    rows = -(-data.tokens // settings.max_length) if settings.packing else len(data.rows)
    rows_per_step = batch.rows * batch.accumulation_steps
    an_epoch = -(-rows // rows_per_step)
    asked = int(settings.sft.get("max_steps", -1))
    steps = asked if asked > 0 else math.ceil(an_epoch * float(settings.sft["num_train_epochs"]))
    return steps, data.tokens * rows_per_step / rows


def _memory_plan(settings: RunSettings, data: EncodedRows, *, on_gpu: bool) -> Plan:
    batch = micro_batch(settings, data)
    lengths, trained = _fullest_pass(settings, data, batch.rows)
    padded = settings.max_tokens_per_pass is None and not settings.packing
    half = settings.model.dtype in {"bfloat16", "float16"} or (
        settings.model.dtype == "auto" and on_gpu and settings.lora is not None
    )
    return Plan(
        base_dtype_bytes=2 if half else 4,
        lora=settings.lora,
        tokens_per_pass=max(lengths) * len(lengths) if padded else sum(lengths),
        trained_tokens_per_pass=trained,
        mask_entries=_mask_entries(settings, lengths, padded=padded),
        passes=batch.accumulation_steps,
        gradient_checkpointing=bool(settings.sft["gradient_checkpointing"]),
        optimizer=str(settings.sft.get("optim", "adamw_torch")),
        on_gpu=on_gpu,
        four_bit=settings.model.four_bit,
    )


def _fullest_pass(settings: RunSettings, data: EncodedRows, rows: int) -> tuple[list[int], int]:
    """Lengths of the rows that may meet in one pass, and their trained tokens."""
    if settings.packing:
        tokens = min(data.tokens, rows * settings.max_length)
        return [tokens], round(tokens * data.trained_tokens / data.tokens)
    # The longest ones; without filling they are padded to the longest.
    longest = sorted(data.rows, key=lambda row: len(row.input_ids), reverse=True)[:rows]
    trained = sum(label != IGNORED for row in longest for label in row.labels)
    return [len(row.input_ids) for row in longest], trained


def _mask_entries(settings: RunSettings, lengths: list[int], *, padded: bool) -> int:
    """Rows end to end are kept apart by a mask over pairs of tokens, unless by flash kernels."""
    if "flash" in settings.model.attention:
        return 0
    return len(lengths) * max(lengths) ** 2 if padded else sum(lengths) ** 2


def _seconds(config: Any, plan: Plan, *, tokens: float, passes: int) -> float | None:
    from prompt_distillation.training.flops import peak_flops, training_flops_per_token

    if not torch.cuda.is_available():
        return None
    peak = peak_flops(torch.device("cuda"))
    if peak is None:
        return None
    per_token = training_flops_per_token(
        meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    )
    layers = int(config.get_text_config().num_hidden_layers)
    return max(
        tokens * per_token / (peak * ASSUMED_UTILISATION), passes * layers * _floor(config, plan)
    )


def _floor(config: Any, plan: Plan) -> float:
    if plan.four_bit is not None and plan.four_bit.experts and number_of_experts(config):
        return FOUR_BIT_LAYER_SECONDS
    return RECOMPUTED_LAYER_SECONDS if plan.gradient_checkpointing else LAYER_SECONDS
