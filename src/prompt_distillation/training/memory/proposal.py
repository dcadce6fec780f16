"""Flags that make a run fit a card which it does not fit as it is."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from prompt_distillation.training.lora.adapter import LoraSettings
from prompt_distillation.training.lora.targets import ALL_LINEAR, ATTENTION
from prompt_distillation.training.quantisation.four_bit import FourBitSettings
from prompt_distillation.training.settings import RunSettings

SMALL_RANK = 8
REFERENCE_LORA = LoraSettings(rank=32, alpha=16, expert_rank=None, targets=ALL_LINEAR)

Way = Callable[[RunSettings], tuple[str, RunSettings] | None]
"""Settings -> the flags that take less memory, and the settings with them; None where they are so
already, or cannot be."""


def propose(
    settings: RunSettings, total: Callable[[RunSettings], float], *, limit: float
) -> tuple[list[str], float] | None:
    """The known ways, one on top of the other until the run fits, less those it fits without.

    Args:
        settings: of the run that does not fit.
        total: the account of a run, in bytes.
        limit: what it may take, in bytes.

    Returns:
        The flags and the account with them; None where nothing helps.
    """
    taken: list[Way] = []
    for way in _WAYS:
        if way(_with(settings, taken)[1]) is None:
            continue
        taken.append(way)
        if total(_with(settings, taken)[1]) <= limit:
            break
    else:
        return None
    # Where a dear way does alone what cheap ones began, those are not asked for.
    for way in reversed(taken[:-1]):
        rest = [other for other in taken if other is not way]
        if total(_with(settings, rest)[1]) <= limit:
            taken = rest
    flags, changed = _with(settings, taken)
    return flags, total(changed)


def _with(settings: RunSettings, ways: Sequence[Way]) -> tuple[list[str], RunSettings]:
    flags = []
    for way in ways:
        changed = way(settings)
        if changed is not None:
            flags.append(changed[0])
            settings = changed[1]
    return flags, settings


def _default_expert_rank(settings: RunSettings) -> tuple[str, RunSettings] | None:
    lora = settings.lora
    if lora is None or lora.expert_rank is None:
        return None
    return "--lora_expert_rank none", replace(settings, lora=replace(lora, expert_rank=None))


def _checkpointing(settings: RunSettings) -> tuple[str, RunSettings] | None:
    if settings.sft["gradient_checkpointing"] is not False:  # None: it is where it has to be
        return None
    sft = {**settings.sft, "gradient_checkpointing": True}
    return "--gradient_checkpointing true", replace(settings, sft=sft)


def _quantised_optimizer(settings: RunSettings) -> tuple[str, RunSettings] | None:
    if "8bit" in str(settings.sft.get("optim", "")):
        return None
    return "--optim adamw_8bit", replace(settings, sft={**settings.sft, "optim": "adamw_8bit"})


def _one_row_a_pass(settings: RunSettings) -> tuple[str, RunSettings] | None:
    rows = settings.sft["per_device_train_batch_size"]
    if rows == 1:
        return None
    passes = settings.sft["gradient_accumulation_steps"] * rows
    batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": passes}
    filled = None if settings.max_tokens_per_pass is None else settings.max_length
    changed = replace(settings, sft={**settings.sft, **batch}, max_tokens_per_pass=filled)
    return " ".join(f"--{name} {value}" for name, value in batch.items()), changed


def _adapter(settings: RunSettings) -> tuple[str, RunSettings] | None:
    if settings.lora is not None:
        return None
    return "--use_lora true", replace(settings, lora=REFERENCE_LORA)


def _four_bits(settings: RunSettings) -> tuple[str, RunSettings] | None:
    if settings.model.four_bit is not None or settings.lora is None:
        return None
    model = replace(settings.model, four_bit=FourBitSettings())
    return "--load_in_4bit", replace(settings, model=model)


def _nested_scales(settings: RunSettings) -> tuple[str, RunSettings] | None:
    four_bit = settings.model.four_bit
    if four_bit is None or four_bit.double_quant:
        return None
    model = replace(settings.model, four_bit=replace(four_bit, double_quant=True))
    return "--use_bnb_nested_quant", replace(settings, model=model)


def _small_rank(settings: RunSettings) -> tuple[str, RunSettings] | None:
    lora = settings.lora
    if lora is None or lora.rank <= SMALL_RANK:
        return None
    return f"--lora_rank {SMALL_RANK}", replace(settings, lora=replace(lora, rank=SMALL_RANK))


def _attention_alone(settings: RunSettings) -> tuple[str, RunSettings] | None:
    lora = settings.lora
    if lora is None or lora.targets == ATTENTION:
        return None
    return f"--lora_targets {ATTENTION}", replace(settings, lora=replace(lora, targets=ATTENTION))


_WAYS: Sequence[Way] = (
    # What costs nothing, then time, then quality.
    _default_expert_rank,
    _checkpointing,
    _quantised_optimizer,
    _one_row_a_pass,
    _adapter,
    _four_bits,
    _nested_scales,
    _small_rank,
    _attention_alone,
)
