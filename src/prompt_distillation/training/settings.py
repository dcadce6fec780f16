"""A run, checked and ready to start, as every part of training takes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.training.encode import EncodedRows
from prompt_distillation.training.loading import ModelSettings
from prompt_distillation.training.lora.adapter import LoraSettings
from prompt_distillation.training.memory.batches import MicroBatch, fill_micro_batch


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A run, checked and ready to start.

    Attributes:
        train_file: chat rows.
        eval_file: held-out chat rows; None trains without a held-out loss.
        output_dir: where everything goes.
        model: the student.
        lora: the adapter; None trains every weight.
        sft: values for `trl.SFTConfig`; ``gradient_checkpointing`` is None where it is settled once
            the rows are known (`plan.settle_checkpointing`).
        max_length: tokens of the longest row taken.
        max_tokens_per_pass: what a filled pass may hold; None keeps the batch as it is asked for.
        chat_template_path: another chat template.
        resume: ``auto``, ``none`` or a checkpoint.
        overwrite: replace a finished run.
        answered_rows: held-out rows answered by generation at each look; 0 for none.
        patience: looks without an improvement after which training stops; None never stops early.
        record: the command's resolved flags, for the manifest.
    """

    train_file: Path
    eval_file: Path | None
    output_dir: Path
    model: ModelSettings
    lora: LoraSettings | None
    sft: Mapping[str, Any]
    max_length: int
    max_tokens_per_pass: int | None
    chat_template_path: str | None
    resume: str
    overwrite: bool
    answered_rows: int
    patience: int | None
    record: Mapping[str, Any]

    @property
    def packing(self) -> bool:
        """Whether TRL joins rows to sequences of ``max_length`` tokens."""
        return bool(self.sft.get("packing", False))


def micro_batch(settings: RunSettings, rows: EncodedRows) -> MicroBatch:
    """How an optimizer step on ``rows`` is cut into passes: as asked for, or filled."""
    asked = MicroBatch(
        settings.sft["per_device_train_batch_size"], settings.sft["gradient_accumulation_steps"]
    )
    if settings.max_tokens_per_pass is None or settings.packing:
        return asked
    return fill_micro_batch(
        rows.lengths(),
        rows=asked.rows,
        accumulation_steps=asked.accumulation_steps,
        max_tokens=settings.max_tokens_per_pass,
    )
