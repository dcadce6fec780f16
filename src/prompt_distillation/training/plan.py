"""A plan before the run: steps, tokens, memory, time, and the flags that make it fit the card."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from prompt_distillation.errors import ModelError
from prompt_distillation.training.adapter import LoraSettings
from prompt_distillation.training.batches import MicroBatch, fill_micro_batch
from prompt_distillation.training.encode import IGNORED, EncodedRows, encode_rows, end_of_turn_ids
from prompt_distillation.training.fourbit import FourBitSettings
from prompt_distillation.training.loading import load_tokenizer
from prompt_distillation.training.memory import (
    GIB,
    MemoryAccount,
    Plan,
    account,
    base_weights,
    meta_model,
)
from prompt_distillation.training.quantisation import BaseBytes
from prompt_distillation.training.rows import read_chat_rows
from prompt_distillation.training.run import RunSettings
from prompt_distillation.training.targets import ALL_LINEAR, ATTENTION

SPARE = 0.05
"""Share of a card kept free: the allocator's fragments, which no account can know."""

ASSUMED_UTILISATION = 0.15
"""Model-FLOPs utilisation that the time estimate assumes: folded experts leave it low."""

WITHIN_OTHERS = {"held_gradients", "layer"}
"""Parts of the account that are parts of `gradients` and `layers`."""

SMALL_RANK = 8
REFERENCE_LORA = LoraSettings(rank=32, alpha=16, expert_rank=None, targets=ALL_LINEAR)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would be.

    Attributes:
        rows: trained on, per epoch.
        tokens: of them, per epoch.
        micro_batch: how a step is cut.
        steps: optimizer steps of the whole run.
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
    steps: int
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
    data = encode_rows(
        read_chat_rows(settings.train_file), tokenizer,
        stop_ids=end_of_turn_ids(tokenizer, generation), max_length=settings.max_length,
    )  # fmt: skip
    micro_batch = _micro_batch(settings, data)
    plan = _memory_plan(settings, data, micro_batch, on_gpu=on_gpu)
    counted = account(config, plan)
    capacity = capacity_gib * GIB
    rows_per_step = micro_batch.rows * micro_batch.accumulation_steps
    steps = -(-len(data.rows) // rows_per_step) * float(settings.sft["num_train_epochs"])
    needs_help = counted.total > capacity * (1 - SPARE)
    return RunPlan(
        rows=len(data.rows),
        tokens=data.tokens,
        micro_batch=micro_batch,
        steps=max(1, int(steps)),
        account=counted,
        base=base_weights(config, plan),
        base_unquantised=base_weights(config, replace(plan, four_bit=None)),
        capacity=capacity,
        proposal=_proposal(config, plan, capacity, settings) if needs_help else None,
        seconds=_seconds(config, plan, data.tokens, settings),
    )


def show_plan(console: Console, plan: RunPlan) -> None:
    """Print the account and what follows from it."""
    table = Table(title="Memory per device", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    for name, size in vars(plan.account).items():
        if name not in WITHIN_OTHERS:
            table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("peak", f"{plan.account.total / GIB:.2f}", style="bold")
    console.print(table)
    if plan.base != plan.base_unquantised:
        linear, experts = (
            (before - after) / GIB
            for before, after in (
                (plan.base_unquantised.linear, plan.base.linear),
                (plan.base_unquantised.experts, plan.base.experts),
            )
        )
        console.print(
            f"4 bits save {linear:.2f} GiB in linear layers and {experts:.2f} GiB in experts; "
            f"{plan.base.rest / GIB:.2f} GiB of embeddings, routers and norms stay as they are"
        )
    batch = plan.micro_batch
    console.print(
        f"{plan.rows:,} rows, {plan.tokens:,} tokens an epoch; {plan.steps:,} optimizer steps of "
        f"{batch.rows} rows x {batch.accumulation_steps} pass(es), "
        f"{plan.tokens * batch.rows * batch.accumulation_steps / plan.rows:,.0f} tokens each"
    )
    if plan.seconds is not None:
        console.print(f"about {plan.seconds / 60:.0f} minutes on this GPU")
    verdict = "fits" if plan.fits else "does not fit"
    console.print(f"{verdict} a device with {plan.capacity / GIB:.0f} GiB")
    if plan.proposal is not None:
        flags, total = plan.proposal
        console.print(f"with {' '.join(flags)}: {total / GIB:.1f} GiB")
    elif not plan.fits:
        console.print(
            "no flag makes it fit one device; use more of them with "
            "ACCELERATE_CONFIG=recipes/accelerate/fsdp2.yaml, or a smaller student"
        )


def _micro_batch(settings: RunSettings, data: EncodedRows) -> MicroBatch:
    rows = settings.sft["per_device_train_batch_size"]
    accumulation = settings.sft["gradient_accumulation_steps"]
    if settings.max_tokens_per_pass is None:
        return MicroBatch(rows, accumulation)
    return fill_micro_batch(
        data.lengths(), rows=rows, accumulation_steps=accumulation,
        max_tokens=settings.max_tokens_per_pass,
    )  # fmt: skip


def _memory_plan(
    settings: RunSettings, data: EncodedRows, batch: MicroBatch, *, on_gpu: bool
) -> Plan:
    # The longest rows may meet in one pass; without filling they are padded to the longest.
    longest = sorted(data.rows, key=lambda row: len(row.input_ids), reverse=True)[: batch.rows]
    lengths = [len(row.input_ids) for row in longest]
    padded = settings.max_tokens_per_pass is None
    half = settings.model.dtype in {"bfloat16", "float16"} or (
        settings.model.dtype == "auto" and on_gpu and settings.lora is not None
    )
    return Plan(
        base_dtype_bytes=2 if half else 4,
        lora=settings.lora,
        tokens_per_pass=max(lengths) * len(lengths) if padded else sum(lengths),
        trained_tokens_per_pass=sum(sum(i != IGNORED for i in row.labels) for row in longest),
        mask_entries=_mask_entries(settings, lengths, padded=padded),
        passes=batch.accumulation_steps,
        gradient_checkpointing=bool(settings.sft["gradient_checkpointing"]),
        optimizer=str(settings.sft.get("optim", "adamw_torch")),
        on_gpu=on_gpu,
        four_bit=settings.model.four_bit,
    )


def _mask_entries(settings: RunSettings, lengths: list[int], *, padded: bool) -> int:
    """Rows end to end are kept apart by a mask over pairs of tokens, unless by flash kernels."""
    if "flash" in settings.model.attention:
        return 0
    return len(lengths) * max(lengths) ** 2 if padded else sum(lengths) ** 2


def _proposal(
    config: Any, plan: Plan, capacity: float, settings: RunSettings
) -> tuple[list[str], float] | None:
    """The first of the known ways, one on top of the other, with which the run fits."""
    flags: list[str] = []
    for flag, changed in _ways_out(plan, settings):
        plan = changed
        flags.append(flag)
        total = account(config, plan).total
        if total <= capacity * (1 - SPARE):
            return flags, total
    return None


def _ways_out(plan: Plan, settings: RunSettings) -> Iterator[tuple[str, Plan]]:
    """Flags and the plan with them, the ones that cost least first."""
    if plan.lora is not None and plan.lora.expert_rank is not None:
        plan = replace(plan, lora=replace(plan.lora, expert_rank=None))
        yield "--lora_expert_rank none", plan
    if not plan.gradient_checkpointing:
        plan = replace(plan, gradient_checkpointing=True)
        yield "--gradient_checkpointing true", plan
    if "8bit" not in plan.optimizer:
        plan = replace(plan, optimizer="adamw_8bit")
        yield "--optim adamw_8bit", plan
    rows = settings.sft["per_device_train_batch_size"]
    if rows > 1:
        accumulation = settings.sft["gradient_accumulation_steps"] * rows
        tokens = min(plan.tokens_per_pass, settings.max_length)
        plan = replace(plan, tokens_per_pass=tokens)
        yield (
            f"--per_device_train_batch_size 1 --gradient_accumulation_steps {accumulation}",
            plan,
        )
    yield from _smaller_weights(plan)


def _smaller_weights(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """What costs quality: the base in four bits, then fewer trained parameters."""
    lora = plan.lora
    if lora is None:
        lora = REFERENCE_LORA
        plan = replace(plan, lora=lora)
        yield "--use_lora true", plan
    four_bit = plan.four_bit
    if four_bit is None:
        four_bit = FourBitSettings()
        plan = replace(plan, four_bit=four_bit)
        yield "--load_in_4bit", plan
    if not four_bit.double_quant:
        plan = replace(plan, four_bit=replace(four_bit, double_quant=True))
        yield "--use_bnb_nested_quant", plan
    if lora.rank > SMALL_RANK:
        lora = replace(lora, rank=SMALL_RANK)
        plan = replace(plan, lora=lora)
        yield f"--lora_rank {SMALL_RANK}", plan
        yield "--lora_targets attention", replace(plan, lora=replace(lora, targets=ATTENTION))


def _seconds(config: Any, plan: Plan, tokens: int, settings: RunSettings) -> float | None:
    import torch

    from prompt_distillation.training.flops import peak_flops, training_flops_per_token

    if not torch.cuda.is_available():
        return None
    peak = peak_flops(torch.device("cuda"))
    if peak is None:
        return None
    per_token = training_flops_per_token(
        meta_model(config, plan.lora, dtype_bytes=plan.base_dtype_bytes)
    )
    epochs = float(settings.sft["num_train_epochs"])
    return tokens * epochs * per_token / (peak * ASSUMED_UTILISATION)
