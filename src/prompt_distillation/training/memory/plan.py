"""A plan before the run: steps, tokens, memory, time, and the flags that make it fit the card."""

import copy
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prompt_distillation.config import flat, split_settings
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.errors import ConfigError
from prompt_distillation.machine import GIB, memory_bytes
from prompt_distillation.training.encode import IGNORED, EncodedRows
from prompt_distillation.training.loading import (
    PreparedRun,
    base_dtype,
    configuration_of,
    is_sharded,
    process_count,
    teacher_in_memory,
)
from prompt_distillation.training.lora.adapter import ALL_LINEAR, ATTENTION, number_of_experts
from prompt_distillation.training.memory.estimate import (
    MemoryEstimate,
    Workload,
    base_weights,
    estimate_memory,
    meta_model,
)
from prompt_distillation.training.quantisation.base_weights import BaseBytes

logger = logging.getLogger(__name__)

SPARE = 0.05
"""Share of a card kept free: the allocator's fragments, which no estimate can know."""

SPARE_WHEN_KEPT = 0.1
"""The same where activations are kept by default: a run that ends for want of memory is worse than
a slower one."""

ASSUMED_UTILISATION = 0.15
"""Model-FLOPs utilisation that the time estimate assumes where there are tokens enough: a cautious
guess, not a measurement."""

LAYER_SECONDS, RECOMPUTED_LAYER_SECONDS, FOUR_BIT_LAYER_SECONDS = 0.0075, 0.011, 0.041
"""What a layer of experts takes of a pass however few its tokens: its kernels are launched one by
one, and 4-bit experts are dequantised. Measured on an H200 at the shape of Qwen3-30B-A3B with 690
tokens a pass (benchmarks/training_profile.py; eight steps of recipes/small-gpu-train.yaml);
recomputing by the kernels that it adds. A dense layer launches somewhat fewer."""

SMALL_RANK = 8


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """How an optimizer step is cut into passes."""

    rows: int
    accumulation_steps: int


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run would be.

    Attributes:
        rows: per epoch, as ``tokens``.
        tokens_per_step: on average, over all processes.
        memory: bytes per device.
        base: of it, the base model's weights, by type.
        base_unquantised: the same without 4 bits.
        capacity: bytes of the card it is compared with.
        proposal: flags that make it fit, and the total in bytes with them; None where it fits, or
            where nothing helps.
        seconds: an estimate; None where the device's peak is not known.
    """

    rows: int
    tokens: int
    micro_batch: MicroBatch
    processes: int
    gradient_checkpointing: bool
    steps: int
    tokens_per_step: float
    memory: MemoryEstimate
    base: BaseBytes
    base_unquantised: BaseBytes
    capacity: float
    proposal: tuple[list[str], float] | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether the peak stays below the card's memory, with room for fragments."""
        return self.memory.total <= self.capacity * (1 - SPARE)


def plan_run(run: PreparedRun, *, capacity_gib: float, on_gpu: bool) -> TrainingPlan:
    """Estimate a run without loading its weights."""

    def settled(changed: PreparedRun) -> PreparedRun:
        return _checkpointing_that_fits(changed, capacity_gib=capacity_gib, on_gpu=on_gpu)

    def total(changed: PreparedRun) -> float:
        return estimate_memory(run.model_config, workload(settled(changed), on_gpu=on_gpu)).total

    asked, run = run, settled(run)
    work = workload(run, on_gpu=on_gpu)
    memory = estimate_memory(run.model_config, work)
    capacity = capacity_gib * GIB
    limit = capacity * (1 - SPARE)
    batch = micro_batch(run)
    steps, tokens_per_step = _steps(run, batch)
    return TrainingPlan(
        rows=len(run.rows.rows),
        tokens=run.rows.tokens,
        micro_batch=batch,
        processes=process_count(),
        gradient_checkpointing=work.gradient_checkpointing,
        steps=steps,
        tokens_per_step=tokens_per_step,
        memory=memory,
        base=base_weights(run.model_config, work),
        base_unquantised=base_weights(run.model_config, replace(work, four_bit=None)),
        capacity=capacity,
        proposal=propose(asked, total, limit=limit) if memory.total > limit else None,
        seconds=_seconds(
            run.model_config,
            work,
            tokens=steps * tokens_per_step / process_count(),
            passes=steps * batch.accumulation_steps,
        ),
    )


def micro_batch(run: PreparedRun) -> MicroBatch:
    """How an optimizer step is cut into passes: as asked for, filled, or by its tokens.

    Raises:
        ConfigError: ``tokens_per_step`` with packed rows, whose number is not known before.
    """
    config, lengths = run.config, run.rows.lengths()
    rows, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
    # A pass never holds more than the rows asked for at full length would.
    max_tokens = config.max_length * rows
    if config.tokens_per_step is not None:
        if packs(run):
            raise ConfigError(
                "--tokens_per_step does not go with --packing, where a step has "
                "--per_device_train_batch_size x --gradient_accumulation_steps x --max_length "
                "tokens; drop one"
            )
        mean = run.rows.tokens / len(lengths)
        asked = max(1, round(config.tokens_per_step / mean / process_count()))
        limit = max_tokens if fills(run) else rows * max(lengths)
        return cut_rows(lengths, min(asked, len(lengths)), max_tokens=limit)
    if not fills(run) or packs(run):
        return MicroBatch(rows, steps)
    return fill_micro_batch(lengths, MicroBatch(rows, steps), max_tokens=max_tokens)


def cut_rows(lengths: Sequence[int], rows: int, *, max_tokens: int) -> MicroBatch:
    """The fewest equal passes that hold ``rows`` rows, each at most ``max_tokens`` tokens.

    The last pass may round ``rows`` up. Args are those of `fill_micro_batch`.
    """
    longest = sorted(lengths, reverse=True)
    for passes in range(1, rows):
        per_pass = -(-rows // passes)
        if sum(longest[:per_pass]) <= max_tokens:
            return MicroBatch(per_pass, passes)
    return MicroBatch(1, rows)


def fill_micro_batch(lengths: Sequence[int], asked: MicroBatch, *, max_tokens: int) -> MicroBatch:
    """The fewest passes with the same rows per optimizer step and at most ``max_tokens`` a pass.

    An optimizer step of 4 rows x 4 accumulation steps takes the gradient of the mean loss over the
    labelled tokens of all 16 rows (transformers divides by their number over the whole step). The
    same 16 rows laid end to end in one pass, each attending to itself only, have the same gradient.
    A pass reads every weight, and in a mixture of experts nearly all of them for few tokens as for
    many. So one full pass beats four thin ones.

    Args:
        lengths: tokens of each row of the training file.
        asked: rows and passes; the passes of the result divide these.
        max_tokens: what a pass may hold even if the longest rows meet in it.
    """
    longest = sorted(lengths, reverse=True)
    for steps in range(1, asked.accumulation_steps + 1):
        if asked.accumulation_steps % steps:
            continue
        merged = asked.rows * (asked.accumulation_steps // steps)
        if sum(longest[:merged]) <= max_tokens:
            return MicroBatch(merged, steps)
    return asked


def fills(run: PreparedRun) -> bool:
    """Whether rows are laid end to end; on-policy rows are padded, whatever the flag says."""
    return run.config.fill_micro_batch and run.config.method != "on_policy"


def packs(run: PreparedRun) -> bool:
    """Whether TRL joins rows to sequences of ``max_length`` tokens."""
    return bool(run.options.get("packing", False))


def settle_checkpointing(
    run: PreparedRun, *, on_gpu: bool, capacity_gib: float | None = None
) -> PreparedRun:
    """Decide on recomputing activations where the user has not.

    They are kept if a tenth of the memory stays free then: of ``--device_memory_gib``, or of what
    there is.
    """
    if run.config.gradient_checkpointing is not None:
        return run
    if run.config.model.trust_remote_code:
        return _uncounted(run, "its code is its own")
    if capacity_gib is None:
        capacity_gib = run.config.device_memory_gib or device_memory_gib(on_gpu=on_gpu)
    try:
        return _checkpointing_that_fits(run, capacity_gib=capacity_gib, on_gpu=on_gpu)
    except Exception as error:  # noqa: BLE001 - of any architecture; the run needs no estimate
        return _uncounted(run, error)


def _checkpointing_that_fits(run: PreparedRun, *, capacity_gib: float, on_gpu: bool) -> PreparedRun:
    if run.config.gradient_checkpointing is not None:
        return run
    kept = _with_checkpointing(run, False)
    # A model is built from the configuration, and sets in it what it likes.
    model_config = copy.deepcopy(run.model_config)
    needed = estimate_memory(model_config, workload(kept, on_gpu=on_gpu)).total
    fits = needed <= capacity_gib * GIB * (1 - SPARE_WHEN_KEPT)
    return kept if fits else _with_checkpointing(run, True)


def _uncounted(run: PreparedRun, reason: object) -> PreparedRun:
    logger.warning(
        "activations are recomputed: what they take cannot be estimated for %s (%s); "
        "--gradient_checkpointing false keeps them",
        type(run.model_config).__name__, reason,
    )  # fmt: skip
    return _with_checkpointing(run, True)


def _with_checkpointing(run: PreparedRun, value: bool) -> PreparedRun:
    return replace(run, config=replace(run.config, gradient_checkpointing=value))


def device_memory_gib(*, on_gpu: bool) -> float:
    """All memory of this process's GPU, or its share of the machine's, in GiB.

    All of it, not what is free: that differs from run to run, and between processes.
    """
    if on_gpu:
        device = int(os.environ.get("LOCAL_RANK", "0"))
        return float(torch.cuda.get_device_properties(device).total_memory / GIB)
    return memory_bytes() / GIB / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _steps(run: PreparedRun, batch: MicroBatch) -> tuple[int, float]:
    data = run.rows
    rows = -(-data.tokens // run.config.max_length) if packs(run) else len(data.rows)
    rows_per_step = batch.rows * batch.accumulation_steps * process_count()
    an_epoch = -(-rows // rows_per_step)
    asked = int(run.options.get("max_steps", -1))
    steps = asked if asked > 0 else math.ceil(an_epoch * run.config.num_train_epochs)
    return steps, data.tokens * rows_per_step / rows


def workload(run: PreparedRun, *, on_gpu: bool) -> Workload:
    """What the memory of a run depends on; its ``gradient_checkpointing`` is settled."""
    config = run.config
    batch = micro_batch(run)
    lengths, trained = _fullest_pass(run, batch.rows)
    padded = not fills(run) and not packs(run)
    teacher = teacher_in_memory(config)
    return Workload(
        base_dtype_bytes=base_dtype(config, on_gpu=on_gpu).itemsize,
        lora=config.lora if config.lora.use_lora else None,
        tokens_per_pass=max(lengths) * len(lengths) if padded else sum(lengths),
        trained_tokens_per_pass=trained,
        mask_entries=_mask_entries(config, lengths, padded=padded),
        may_attend_by_rows=not (padded or is_sharded()) and config.attn_implementation == "auto",
        passes=batch.accumulation_steps,
        gradient_checkpointing=bool(config.gradient_checkpointing),
        optimizer=str(run.options.get("optim", "adamw_torch")),
        on_gpu=on_gpu,
        four_bit=config.four_bit if config.four_bit.load_in_4bit else None,
        shards=process_count() if "ACCELERATE_USE_FSDP" in os.environ else 1,
        teacher=configuration_of(teacher) if teacher else None,
    )


def _fullest_pass(run: PreparedRun, rows: int) -> tuple[list[int], int]:
    """Lengths of the rows that may meet in one pass, and their trained tokens."""
    data: EncodedRows = run.rows
    if packs(run):
        tokens = min(data.tokens, rows * run.config.max_length)
        return [tokens], round(tokens * data.trained_tokens / data.tokens)
    # The longest ones; without filling they are padded to the longest.
    longest = sorted(data.rows, key=lambda row: len(row.input_ids), reverse=True)[:rows]
    trained = sum(label != IGNORED for row in longest for label in row.labels)
    return [len(row.input_ids) for row in longest], trained


def _mask_entries(config: TrainConfig, lengths: list[int], *, padded: bool) -> int:
    """Rows end to end are kept apart by a mask over pairs of tokens, unless by flash kernels."""
    if "flash" in config.attn_implementation:
        return 0
    return len(lengths) * max(lengths) ** 2 if padded else sum(lengths) ** 2


def _seconds(config: Any, work: Workload, *, tokens: float, passes: int) -> float | None:
    from prompt_distillation.training.flops import peak_flops, training_flops_per_token

    if not torch.cuda.is_available():
        return None
    peak = peak_flops(torch.device("cuda"))
    if peak is None:
        return None
    model = meta_model(config, work.lora, dtype_bytes=work.base_dtype_bytes)
    arithmetic = tokens * training_flops_per_token(model) / (peak * ASSUMED_UTILISATION)
    layers = int(config.get_text_config().num_hidden_layers)
    return max(arithmetic, passes * layers * _floor(config, work))


def _floor(config: Any, work: Workload) -> float:
    if work.four_bit is not None and work.four_bit.bnb_4bit_experts and number_of_experts(config):
        return FOUR_BIT_LAYER_SECONDS
    return RECOMPUTED_LAYER_SECONDS if work.gradient_checkpointing else LAYER_SECONDS


Values = Mapping[str, Any]
"""Flat settings and options of a run, as its flags name them."""

Way = Callable[[Values], dict[str, Any]]
"""Flags that take less memory; none where they are so already, or cannot be."""


def _one_row_a_pass(values: Values) -> dict[str, Any]:
    rows = values["per_device_train_batch_size"]
    if rows == 1:
        return {}
    passes = values["gradient_accumulation_steps"] * rows
    return {"per_device_train_batch_size": 1, "gradient_accumulation_steps": passes}


WAYS: tuple[Way, ...] = (
    # What costs nothing, then time, then quality.
    lambda v: {"lora_expert_rank": None} if v["use_lora"] and v["lora_expert_rank"] else {},
    # auto: it is so where it has to be.
    lambda v: {"gradient_checkpointing": True} if v["gradient_checkpointing"] is False else {},
    lambda v: {} if "8bit" in str(v.get("optim", "")) else {"optim": "adamw_8bit"},
    _one_row_a_pass,
    lambda v: {} if v["use_lora"] else {"use_lora": True},
    lambda v: {"load_in_4bit": True} if v["use_lora"] and not v["load_in_4bit"] else {},
    lambda v: (
        {"use_bnb_nested_quant": True}
        if v["load_in_4bit"] and not v["use_bnb_nested_quant"]
        else {}
    ),
    lambda v: {"lora_rank": SMALL_RANK} if v["use_lora"] and v["lora_rank"] > SMALL_RANK else {},
    lambda v: (
        {"lora_targets": ATTENTION} if v["use_lora"] and v["lora_targets"] == ALL_LINEAR else {}
    ),
)


def propose(
    run: PreparedRun, total: Callable[[PreparedRun], float], *, limit: float
) -> tuple[list[str], float] | None:
    """Add memory-saving flags one by one until the run fits, then drop those it fits without.

    ``total`` is the memory of a run and ``limit`` what it may take, in bytes.
    """
    taken: list[Way] = []
    for way in WAYS:
        if not way(_values(with_flags(run, _changes(run, taken)))):
            continue
        taken.append(way)
        if total(with_flags(run, _changes(run, taken))) <= limit:
            break
    else:
        return None
    # Where an expensive way does alone what cheap ones began, those are not asked for.
    for way in reversed(taken[:-1]):
        rest = [other for other in taken if other is not way]
        if total(with_flags(run, _changes(run, rest))) <= limit:
            taken = rest
    changes = _changes(run, taken)
    flags = [
        f"--{name}" if value is True else f"--{name} {'none' if value is None else value}"
        for name, value in changes.items()
    ]
    return flags, total(with_flags(run, changes))


def with_flags(run: PreparedRun, changes: Values) -> PreparedRun:
    """The run with other flags; its rows stay as they are."""
    own, options = split_settings(TrainConfig, changes)
    config = TrainConfig.of(**{**flat(run.config), **own})
    return replace(run, config=config, options={**run.options, **options})


def _changes(run: PreparedRun, ways: Sequence[Way]) -> dict[str, Any]:
    values = _values(run)
    changes: dict[str, Any] = {}
    for way in ways:
        changes |= way({**values, **changes})
    return changes


def _values(run: PreparedRun) -> dict[str, Any]:
    return {**run.options, **flat(run.config)}
