"""What stands beside every trained model: settings, inputs, counts, figures, versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.provenance import model_fingerprint, provenance, sha256_of_file
from prompt_distillation.training.encode import EncodedRows
from prompt_distillation.training.lora.adapter import count_parameters

NOT_IDENTITY = frozenset(
    {
        "output_dir", "overwrite", "resume_from_checkpoint", "report_to", "run_name", "dry_run",
        "device_memory_gib", "gradient_checkpointing",
    }
)  # fmt: skip
"""Flags of where a run goes, how it is watched and what it keeps in memory: not what it trains."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to.

    Attributes:
        rows: trained on, per epoch.
        steps: optimizer steps, those before the run was resumed included.
        rows_seen: rows of the steps since then; a row counts once in each epoch.
        seconds: of the training loop since then, looks at the held-out rows included.
        looking_seconds: of these, what the looks took.
        train_loss: mean over the run, nats per trained token.
        held_out_loss: before, and of the weights kept, nats per trained token; None without
            held-out rows.
        held_out_accuracy: the same by generation; None where it was not asked for.
        sync_hint: the command that uploads an offline W&B run.
    """

    rows: int
    steps: int
    rows_seen: int
    seconds: float
    looking_seconds: float
    train_loss: float
    held_out_loss: tuple[float, float] | None
    held_out_accuracy: tuple[float, float] | None
    sync_hint: str | None


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Both splits, encoded."""

    train: EncodedRows
    held_out: EncodedRows | None


def run_identity(
    record: Mapping[str, Any], *, train_file: Path, eval_file: Path | None, model: str
) -> dict[str, Any]:
    """What makes two runs the same: settings that shape the weights, and hashes of the inputs."""
    return {key: value for key, value in record.items() if key not in NOT_IDENTITY} | {
        "train_file_sha256": sha256_of_file(train_file),
        "eval_file_sha256": sha256_of_file(eval_file) if eval_file else None,
        "model_sha256": model_fingerprint(model).get("sha256"),
    }


def training_manifest(
    record: Mapping[str, Any],
    run: Mapping[str, Any],
    trainer: Any,
    data: TrainingData,
    result: RunResult,
) -> dict[str, Any]:
    """The manifest of a finished run, as JSON can hold it."""
    trainable, total = count_parameters(trainer.model)
    return {
        "base_model": model_fingerprint(str(record["model_name"])),
        "config": dict(record),
        "inputs": {key: run[key] for key in ("train_file_sha256", "eval_file_sha256")},
        "seed": trainer.args.seed,
        "counts": {
            "rows": len(data.train.rows),
            "left_out": data.train.left_out,
            "tokens": data.train.tokens,
            "trained_tokens": data.train.trained_tokens,
            "held_out_rows": len(data.held_out.rows) if data.held_out else 0,
            "trainable_parameters": trainable,
            "total_parameters": total,
        },
        "micro_batch": {
            "rows": trainer.args.per_device_train_batch_size,
            "accumulation_steps": trainer.args.gradient_accumulation_steps,
            "processes": trainer.args.world_size,
        },
        "result": {
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "looking_seconds": round(result.looking_seconds, 3),
            "train_loss": result.train_loss,
            "held_out_loss": result.held_out_loss,
            "held_out_accuracy": result.held_out_accuracy,
            "best_metric": trainer.state.best_metric,
            "best_checkpoint": trainer.state.best_model_checkpoint,
        },
        "sft_config": _jsonable(trainer.args.to_dict()),
        "provenance": provenance(),
    }


def run_result(trainer: Any, *, rows: int, seconds: float, sync_hint: str | None) -> RunResult:
    """Read a run's figures out of the trainer's log."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    kept = kept_step(trainer)
    return RunResult(
        rows=rows,
        steps=trainer.state.global_step,
        rows_seen=trainer.rows_seen,
        seconds=seconds,
        looking_seconds=trainer.looking_seconds,
        train_loss=sum(losses) / max(1, len(losses)),
        held_out_loss=_first_and_kept(history, "eval_loss", kept),
        held_out_accuracy=_first_and_kept(history, "eval_accuracy", kept),
        sync_hint=sync_hint,
    )


def kept_step(trainer: Any) -> int:
    """The optimizer step whose weights are kept: the best one where it is loaded, else the last."""
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best or trainer.state.global_step)


def _first_and_kept(
    history: list[dict[str, Any]], key: str, kept: int
) -> tuple[float, float] | None:
    values = [entry[key] for entry in history if key in entry]
    at_kept = [entry[key] for entry in history if key in entry and entry["step"] == kept]
    return (values[0], (at_kept or values)[-1]) if values else None


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, list, dict, type(None))
    return {key: value if isinstance(value, plain) else str(value) for key, value in values.items()}
