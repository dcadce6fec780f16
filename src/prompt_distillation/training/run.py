"""One fine-tuning run from a file of chat rows to an adapter in a folder."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from prompt_distillation.data.chat_rows import ChatRow, read_chat_rows
from prompt_distillation.data.files import write_json
from prompt_distillation.data.model_card import trained_card
from prompt_distillation.data.run_files import MANIFEST_FILE
from prompt_distillation.errors import ConfigError, PromptDistillationError
from prompt_distillation.training.display import show_example, show_trained
from prompt_distillation.training.encode import EncodedRows, encode_rows, end_of_turn_ids
from prompt_distillation.training.loading import load_model, load_tokenizer
from prompt_distillation.training.lora.adapter import (
    LoraSettings,
    count_parameters,
    lora_config,
    trained_kinds,
)
from prompt_distillation.training.lora.targets import default_expert_rank, find_targets
from prompt_distillation.training.manifest import (
    RunResult,
    TrainingData,
    kept_step,
    run_identity,
    run_result,
    training_manifest,
)
from prompt_distillation.training.memory.plan import settle_checkpointing
from prompt_distillation.training.methods.sft_options import build_sft_config
from prompt_distillation.training.outputs import (
    as_write_error,
    choose_checkpoint,
    prepare_folder,
    save_card,
    save_final,
    save_history,
)
from prompt_distillation.training.quantisation.base_weights import held_bytes, leave_to_each_process
from prompt_distillation.training.settings import RunSettings, micro_batch
from prompt_distillation.training.tracking import finish_tracking, log_end, prepare_tracking

logger = logging.getLogger(__name__)


def train(settings: RunSettings, console: Console) -> RunResult:
    """Train, save, and return the figures.

    Raises:
        InputError: a row or file that cannot be trained on.
        OutputExistsError: the folder holds another run.
        ModelError: the student cannot be loaded or has no usable chat template.
        ConfigError: options that TRL refuses.
        OutputWriteError: the disk is full or not writable.
    """
    rows = read_chat_rows(settings.train_file)
    held_out = read_chat_rows(settings.eval_file) if settings.eval_file else None
    run = run_identity(
        settings.record,
        train_file=settings.train_file,
        eval_file=settings.eval_file,
        model=settings.model.name,
    )
    checkpoint = choose_checkpoint(
        settings.output_dir, run, resume=settings.resume, overwrite=settings.overwrite
    )
    arguments = build_sft_config(settings.sft)
    # A run that goes on has its first look at the held-out rows behind it.
    arguments.eval_on_start = arguments.eval_on_start and checkpoint is None
    is_main = arguments.process_index == 0
    if is_main:
        prepare_folder(settings.output_dir, run, fresh=checkpoint is None)
    prepare_tracking(arguments.report_to, output_dir=settings.output_dir)
    tokenizer = load_tokenizer(settings.model, chat_template_path=settings.chat_template_path)
    on_gpu = arguments.device.type == "cuda"
    model = load_model(settings.model, use_lora=settings.lora is not None, on_gpu=on_gpu)
    data = _encode(rows, held_out, tokenizer, model, max_length=settings.max_length)
    settings = settle_checkpointing(settings, model.config, data.train, on_gpu=on_gpu)
    trainer = _build_trainer(settings, arguments, model, tokenizer, data)
    if is_main:
        _show_start(console, trainer, data, tokenizer, checkpoint)
    try:
        return _train_and_save(settings, trainer, data, run, checkpoint)
    except PromptDistillationError:
        raise
    except Exception as error:
        write_error = as_write_error(error, settings.output_dir)
        if write_error is None:
            raise
        raise write_error from error


def _train_and_save(
    settings: RunSettings,
    trainer: Any,
    data: TrainingData,
    run: Mapping[str, Any],
    checkpoint: Path | None,
) -> RunResult:
    output_dir = settings.output_dir
    is_main = trainer.is_world_process_zero()
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    kept = kept_step(trainer)
    if settings.answered_rows and data.held_out and (kept != trainer.answered_at):
        # The best checkpoint was loaded, or a run went on after its last look.
        trainer.answer_held_out()
    hint = None
    if "wandb" in trainer.args.report_to and is_main:
        log_end(trainer.answered, notes=trainer.missing_figures())
        hint = finish_tracking()
    result = run_result(trainer, rows=len(data.train.rows), seconds=seconds, sync_hint=hint)
    save_final(output_dir, lambda path: trainer.save_model(str(path)), is_main=is_main)
    if is_main:
        save_history(output_dir, trainer.state.log_history)
        manifest = training_manifest(settings.record, run, trainer, data, result)
        # In place of PEFT's, which is a form to fill in.
        save_card(output_dir, trained_card(output_dir.resolve().name, manifest))
        write_json(output_dir / MANIFEST_FILE, manifest)
    return result


def _encode(
    rows: Sequence[ChatRow],
    held_out: Sequence[ChatRow] | None,
    tokenizer: Any,
    model: Any,
    *,
    max_length: int,
) -> TrainingData:
    stop_ids = end_of_turn_ids(tokenizer, model.generation_config)
    encode = {"stop_ids": stop_ids, "max_length": max_length}
    return TrainingData(
        train=encode_rows(rows, tokenizer, **encode),  # type: ignore[arg-type]
        held_out=encode_rows(held_out, tokenizer, **encode)  # type: ignore[arg-type]
        if held_out
        else None,
    )


def _build_trainer(
    settings: RunSettings, arguments: Any, model: Any, tokenizer: Any, data: TrainingData
) -> Any:
    from transformers import EarlyStoppingCallback

    from prompt_distillation.training.answering import questions
    from prompt_distillation.training.methods.sft import AnswerTrainer
    from prompt_distillation.training.progress import LossFile, ProgressLine

    arguments.gradient_checkpointing = settings.sft["gradient_checkpointing"]
    batch = micro_batch(settings, data.train)
    arguments.per_device_train_batch_size = batch.rows
    arguments.gradient_accumulation_steps = batch.accumulation_steps
    # Rows arrive encoded and short enough, and are laid end to end, each attending to itself.
    arguments.padding_free = settings.max_tokens_per_pass is not None and not arguments.packing
    arguments.max_length = settings.max_length if arguments.packing else None
    peft_config = _peft_config(settings.lora, model)
    try:
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=_dataset(data.train),
            eval_dataset=_dataset(data.held_out) if data.held_out else None,
            processing_class=tokenizer,
            peft_config=peft_config,
            asked=questions(data.held_out.rows, limit=settings.answered_rows)
            if data.held_out
            else (),
        )
    except ValueError as error:
        raise ConfigError(f"TRL refuses the options: {error}") from error
    leave_to_each_process(trainer.model)
    ProgressLine.replace_in(trainer)
    trainer.add_callback(LossFile(settings.output_dir))
    if settings.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    return trainer


def _dataset(rows: EncodedRows) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows.rows],
            "labels": [row.labels for row in rows.rows],
        }
    )


def _peft_config(lora: LoraSettings | None, model: Any) -> Any:
    from prompt_distillation.training.lora.expert_lora import set_expert_lora
    from prompt_distillation.training.lora.linear_lora import set_linear_lora

    if lora is None:
        return None
    targets = find_targets(model, lora.targets)
    expert_rank = lora.expert_rank or default_expert_rank(model.config, lora.rank)
    config = lora_config(lora, targets, expert_rank=expert_rank)
    set_expert_lora(model, config, targets, lora.expert_lora)
    set_linear_lora(config)
    return config


def _show_start(
    console: Console, trainer: Any, data: TrainingData, tokenizer: Any, checkpoint: Path | None
) -> None:
    trainable, total = count_parameters(trainer.model)
    show_trained(console, trained_kinds(trainer.model), trainable=trainable, total=total)
    console.print(f"weights and adapter: {held_bytes(trainer.model) / 2**30:.3f} GiB")
    show_example(console, data.train.rows[0], tokenizer)
    arguments = trainer.args
    held_out = f"; {len(data.held_out.rows):,} held-out rows" if data.held_out else ""
    console.print(
        f"{len(data.train.rows):,} rows, {data.train.tokens:,} tokens, "
        f"{data.train.trained_tokens:,} of them trained{held_out}"
    )
    console.print(
        f"an optimizer step: {arguments.per_device_train_batch_size} rows a pass x "
        f"{arguments.gradient_accumulation_steps} pass(es) x {arguments.world_size} process(es); "
        f"activations {'recomputed' if arguments.gradient_checkpointing else 'kept'}"
    )
    if checkpoint:
        console.print(f"going on from {checkpoint}")
