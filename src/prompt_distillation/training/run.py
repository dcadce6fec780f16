"""Fine-tune a student: from a file of chat rows to an adapter, or a model, in a folder.

The heavy libraries load inside the functions, so that a wrong name or path answers at once.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prompt_distillation.checkpoints import ADAPTER_CONFIG
from prompt_distillation.config import flat
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.files import atomic_writer, read_json, write_json
from prompt_distillation.data.training_files import (
    CARD_FILE,
    HISTORY_FILE,
    LOSS_FILE,
    MANIFEST_FILE,
    PLOTS_FOLDER,
)
from prompt_distillation.errors import ConfigError, PromptDistillationError
from prompt_distillation.training.loading import (
    PreparedRun,
    adapter_files,
    check_before_loading,
    held_out_file,
    is_sharded,
    keep_rows_apart,
    keep_to_one_gpu,
    load_student,
    prepare,
    process_count,
)
from prompt_distillation.training.methods.method import METHODS, TrainingMethod
from prompt_distillation.training.methods.sft_options import (
    build_sft_config,
    check_sft_options,
    refuse_misspelt,
    sft_values,
    uses_gpu,
)
from prompt_distillation.training.output_folder import (
    RunFolder,
    failed_writes,
    hold_run_folder,
)

if TYPE_CHECKING:
    from rich.console import Console

    from prompt_distillation.training.manifest import TrainResult
    from prompt_distillation.training.memory.plan import TrainingPlan

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def train(
    config: TrainConfig,
    sft_options: Mapping[str, Any] = NO_OPTIONS,
    *,
    console: "Console | None" = None,
) -> "TrainResult":
    """Fine-tune the student and save it; see `prompt_distillation.train`.

    Args:
        config: of the run.
        sft_options: fields of TRL's `SFTConfig` by their own names, as texts or in their types.
        console: where the run shows what it does; None prints to the terminal.
    """
    refuse_misspelt(sft_options)
    check_before_loading(config, sft_options)
    method = METHODS[config.method](config)
    method_files = [*method.files(), *adapter_files(config.lora.adapter_path)]
    # Set before torch and the hub's client read them.
    keep_to_one_gpu(os.environ)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    options = check_sft_options(sft_options, method.trl_config)

    from rich.console import Console

    from prompt_distillation.training.manifest import run_identity

    is_main = os.environ.get("RANK", "0") == "0"
    console = console or Console(quiet=not is_main)
    eval_file = held_out_file(config)
    identity = run_identity(
        flat(config) | options,
        train_file=config.train_file,
        eval_file=eval_file,
        method_files=method_files,
        processes=process_count(),
    )
    folder = hold_run_folder(
        config.output_dir,
        identity,
        inputs=[*_inputs(config, eval_file), *method_files],
        resume=config.resume_from_checkpoint,
        overwrite=config.overwrite,
        is_main=is_main,
    )
    with folder as held, failed_writes(config.output_dir):
        return _train_in(held, identity, config, method, options, console)


def plan_training(
    config: TrainConfig, sft_options: Mapping[str, Any] = NO_OPTIONS
) -> "TrainingPlan":
    """Estimate steps, memory and time of a run without loading weights or writing anything.

    It is planned for ``config.device_memory_gib`` of GPU memory; without it for this machine's
    GPU, or for a card of 80 GiB.
    """
    refuse_misspelt(sft_options)
    check_before_loading(config, sft_options)
    method = METHODS[config.method](config)
    method.files()
    options = check_sft_options(sft_options, method.trl_config)

    import torch

    from prompt_distillation.training.memory.plan import device_memory_gib, plan_run

    here = device_memory_gib(on_gpu=True) if torch.cuda.is_available() else 80.0
    run = prepare(config, options)
    method.read(run)
    # Without a GPU here, the estimate is for the card that the run is planned for.
    return plan_run(run, capacity_gib=config.device_memory_gib or here, on_gpu=True)


def _inputs(config: TrainConfig, eval_file: Path | None) -> list[Path]:
    model = Path(config.model.model_name)
    return [
        config.train_file,
        *([eval_file] if eval_file else []),
        *([model] if model.is_dir() else []),
    ]


def _train_in(
    folder: RunFolder,
    identity: Mapping[str, Any],
    config: TrainConfig,
    method: TrainingMethod,
    options: Mapping[str, Any],
    console: "Console",
) -> "TrainResult":
    from prompt_distillation.training.memory.plan import settle_checkpointing
    from prompt_distillation.training.tracking import prepare_tracking

    on_gpu = uses_gpu(options)
    run = prepare(config, options)
    method.read(run)
    prepare_tracking([config.report_to], output_dir=folder.path)
    model = None
    if not is_sharded():
        model = load_student(config, options, on_gpu=on_gpu)
        run = keep_rows_apart(run, model)
    run = settle_checkpointing(run, on_gpu=on_gpu)
    # FSDP and ZeRO-3 cut the weights while they are loaded, and learn how from TRL's arguments.
    arguments = _trl_arguments(run, method, folder.checkpoint)
    if model is None:
        model = load_student(config, options, on_gpu=on_gpu)
    trainer = _build_trainer(run, method, folder, arguments, model)
    if trainer.is_world_process_zero():
        _show_start(console, trainer, run, folder.checkpoint)
        folder.begin()
        folder.add(LOSS_FILE)
    started = time.perf_counter()
    checkpoint = folder.checkpoint
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    return _save(folder, identity, run, method, trainer, seconds=seconds)


def _trl_arguments(run: PreparedRun, method: TrainingMethod, checkpoint: Path | None) -> Any:
    """TRL's configuration, constructed once, with everything settled."""
    from prompt_distillation.training.memory.plan import micro_batch, packs

    config = run.config
    values = dict(sft_values(config, run.options, has_held_out=run.held_out is not None))
    # A resumed run has had its first evaluation.
    values["eval_on_start"] = values["eval_on_start"] and checkpoint is None
    if method.trl_config == "SFTConfig":
        batch = micro_batch(run)
        values |= {
            "per_device_train_batch_size": batch.rows,
            "gradient_accumulation_steps": batch.accumulation_steps,
            # Rows arrive encoded and short enough, and are laid end to end, each attending to
            # itself.
            "padding_free": config.fill_micro_batch and not packs(run),
            "max_length": config.max_length if packs(run) else None,
        }
    else:
        del values["router_aux_loss_coef"]
    return build_sft_config({**method.defaults(), **values}, method.trl_config)


def _build_trainer(
    run: PreparedRun, method: TrainingMethod, folder: RunFolder, arguments: Any, model: Any
) -> Any:
    from transformers import EarlyStoppingCallback, set_seed

    from prompt_distillation.training.held_out_answers import questions
    from prompt_distillation.training.lora.adapter import adapt
    from prompt_distillation.training.loss_log import LossFile, ProgressLine
    from prompt_distillation.training.quantisation.base_weights import leave_to_each_process

    config, held_out = run.config, run.held_out
    set_seed(arguments.seed)  # the trainer does so only once the adapter is there
    try:
        trainer = method.trainer(
            run,
            model=adapt(model, config.lora) if config.lora.use_lora else model,
            args=arguments,
            processing_class=run.tokenizer,
            asked=questions(held_out.rows, limit=config.held_out_answers) if held_out else (),
            rows=run.rows.rows,
            before_save=folder.add,
        )
    except PromptDistillationError:
        raise
    except ValueError as error:
        raise ConfigError(f"TRL refuses the options: {error}") from error
    leave_to_each_process(trainer.model)
    ProgressLine.replace_in(trainer)
    trainer.add_callback(LossFile(folder.path))
    if config.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.early_stopping_patience))
    return trainer


def _save(
    folder: RunFolder,
    identity: Mapping[str, Any],
    run: PreparedRun,
    method: TrainingMethod,
    trainer: Any,
    *,
    seconds: float,
) -> "TrainResult":
    from prompt_distillation.data.model_card import trained_card
    from prompt_distillation.training.manifest import (
        kept_step,
        save_history,
        train_result,
        training_manifest,
    )
    from prompt_distillation.training.tracking import finish_tracking, log_end

    config = run.config
    is_main = trainer.is_world_process_zero()
    if config.held_out_answers and run.held_out and kept_step(trainer) != trainer.answered_at:
        # The best checkpoint was loaded, or a run went on after its last evaluation.
        trainer.answer_held_out()
    hint = None
    if "wandb" in trainer.args.report_to and is_main:
        log_end(trainer.answered, notes=trainer.missing_figures())
        hint = finish_tracking()
    result = train_result(trainer, folder.path, run=run, seconds=seconds, sync_hint=hint)
    folder.save_model(lambda path: trainer.save_model(str(path)), is_main=is_main)
    if is_main:
        # The caller draws the plots, from the history.
        folder.add(HISTORY_FILE, CARD_FILE, MANIFEST_FILE, PLOTS_FOLDER)
        save_history(folder.path, trainer.state.log_history)
        record = flat(config) | dict(run.options)
        manifest = training_manifest(record, identity, trainer, run, result)
        manifest["method"] = {"name": config.method, **method.manifest()}
        with atomic_writer(folder.path / CARD_FILE) as card:
            card.write(trained_card(folder.path.resolve().name, manifest, _adapter_config(folder)))
        write_json(folder.path / MANIFEST_FILE, manifest)
    return result


def _adapter_config(folder: RunFolder) -> Mapping[str, Any] | None:
    """PEFT's configuration of the adapter that was saved; None where the model is trained whole."""
    path = folder.path / ADAPTER_CONFIG
    return read_json(path) if path.is_file() else None


def _show_start(
    console: "Console", trainer: Any, run: PreparedRun, checkpoint: Path | None
) -> None:
    from prompt_distillation.training.lora.adapter import count_parameters, trained_kinds
    from prompt_distillation.training.loss_log import show_example, show_trained
    from prompt_distillation.training.quantisation.base_weights import held_bytes

    trainable, total = count_parameters(trainer.model)
    show_trained(console, trained_kinds(trainer.model), trainable=trainable, total=total)
    console.print(f"weights and adapter: {held_bytes(trainer.model) / 2**30:.3f} GiB")
    show_example(console, run.rows.rows[0], run.tokenizer)
    arguments = trainer.args
    held_out = f"; {len(run.held_out.rows):,} held-out rows" if run.held_out else ""
    console.print(
        f"{len(run.rows.rows):,} rows, {run.rows.tokens:,} tokens, "
        f"{run.rows.trained_tokens:,} of them trained{held_out}"
    )
    console.print(
        f"an optimizer step: {arguments.per_device_train_batch_size} rows a pass x "
        f"{arguments.gradient_accumulation_steps} pass(es) x {arguments.world_size} process(es); "
        f"activations {'recomputed' if arguments.gradient_checkpointing else 'kept'}"
    )
    if checkpoint:
        console.print(f"going on from {checkpoint}")
