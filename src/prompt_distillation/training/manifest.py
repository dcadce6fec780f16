"""What is written beside every trained model: result, settings, inputs, versions and losses."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prompt_distillation.data.files import atomic_writer, sibling, write_json
from prompt_distillation.data.intervals import Interval, wilson_interval, with_interval
from prompt_distillation.data.training_files import GIVEN, HISTORY_FILE, LOSS_FILE, TEACHER
from prompt_distillation.provenance import model_fingerprint, provenance, sha256_of_file
from prompt_distillation.training.lora.adapter import count_parameters

NOT_IDENTITY = frozenset(
    {
        "output_dir", "overwrite", "resume_from_checkpoint", "report_to", "run_name", "dry_run",
        "device_memory_gib", "gradient_checkpointing",
    }
)  # fmt: skip
"""Settings of where a run goes, how it is watched and what it keeps in memory: not what it trains.
"""

LOSS_COLUMNS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


@dataclass(frozen=True, kw_only=True)
class HeldOutAccuracy:
    """Share of held-out rows whose answer the student generates word for word.

    Attributes:
        before: of the student before training; None where a run went on from a checkpoint.
        correct: of the weights kept.
        total: rows that were answered.
        truth: whose answers count as right: `TEACHER` or `GIVEN`.
    """

    before: float | None
    correct: int
    total: int
    truth: str = TEACHER

    @property
    def after(self) -> float:
        """Share of right answers of the weights kept."""
        return self.correct / self.total

    @property
    def interval(self) -> Interval:
        """The 95 % Wilson interval of `after`."""
        interval = wilson_interval(self.correct, self.total)
        assert interval is not None
        return interval

    def __str__(self) -> str:
        share = with_interval(self.after, self.interval)
        owner = "teacher's" if self.truth == TEACHER else self.truth
        return f"{share} of {self.total} rows, against the {owner} answers"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        output_dir: the trained model.
        rows: trained on, per epoch.
        steps: optimizer steps, those before the run was resumed included.
        rows_seen: rows of the steps since then; a row counts once in each epoch.
        seconds: of the training loop since then, evaluations included.
        evaluation_seconds: of these, what evaluations on held-out rows took.
        train_loss: mean over the run, nats per trained token.
        held_out_loss: before, and of the weights kept, nats per trained token; None without
            held-out rows.
        held_out_accuracy: the same by generation; None where it was not asked for.
        trained_parameters: numbers that were trained.
        sync_hint: the command that uploads an offline W&B run.
    """

    output_dir: Path
    rows: int
    steps: int
    rows_seen: int
    seconds: float
    evaluation_seconds: float
    train_loss: float
    held_out_loss: tuple[float, float] | None
    held_out_accuracy: HeldOutAccuracy | None
    trained_parameters: int
    sync_hint: str | None

    def __repr__(self) -> str:
        parts = [
            f"output_dir={str(self.output_dir)!r}", f"steps={self.steps}",
            f"seconds={self.seconds:.1f}", f"trained_parameters={self.trained_parameters:,}",
        ]  # fmt: skip
        if self.held_out_loss:
            before, after = self.held_out_loss
            parts.append(f"held_out_loss={before:.4f} -> {after:.4f}")
        if self.held_out_accuracy:
            parts.append(f"held_out_accuracy={self.held_out_accuracy}")
        return f"TrainResult({', '.join(parts)})"


def run_identity(
    record: Mapping[str, Any],
    *,
    train_file: Path,
    eval_file: Path | None,
    method_files: Sequence[Path] = (),
    processes: int,
) -> dict[str, Any]:
    """What makes two runs the same: settings that shape the weights, and hashes of the inputs."""
    return {key: value for key, value in record.items() if key not in NOT_IDENTITY} | {
        "train_file_sha256": sha256_of_file(train_file),
        "eval_file_sha256": sha256_of_file(eval_file) if eval_file else None,
        "method_files_sha256": [sha256_of_file(path) for path in method_files],
        "model_sha256": model_fingerprint(str(record["model_name"])).get("sha256"),
        "processes": processes,
    }


def training_manifest(
    record: Mapping[str, Any], identity: Mapping[str, Any], trainer: Any, run: Any,
    result: TrainResult,
) -> dict[str, Any]:  # fmt: skip
    """The manifest of a finished run, as JSON can hold it."""
    trainable, total = count_parameters(trainer.model)
    accuracy = result.held_out_accuracy
    return {
        "base_model": model_fingerprint(str(record["model_name"])),
        "config": dict(record),
        "inputs": {
            f"{key}_sha256": identity[f"{key}_sha256"]
            for key in ("train_file", "eval_file", "method_files")
        }
        | {
            "answers": answers_of(run.config.train_file),
            "with_prompt": run.rows.rows[0].context[0]["role"] == "system",
        },
        "seed": trainer.args.seed,
        "counts": {
            "rows": len(run.rows.rows),
            "left_out": run.rows.left_out,
            "tokens": run.rows.tokens,
            "trained_tokens": run.rows.trained_tokens,
            "held_out_rows": len(run.held_out.rows) if run.held_out else 0,
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
            "evaluation_seconds": round(result.evaluation_seconds, 3),
            "train_loss": result.train_loss,
            "held_out_loss": result.held_out_loss,
            "held_out_accuracy": [accuracy.before, accuracy.after] if accuracy else None,
            "held_out_answers": accuracy.total if accuracy else 0,
            "held_out_correct": accuracy.correct if accuracy else 0,
            "best_metric": trainer.state.best_metric,
            "best_checkpoint": trainer.state.best_model_checkpoint,
        },
        "sft_config": _jsonable(trainer.args.to_dict()),
        "provenance": provenance(),
    }


def answers_of(train_file: Path) -> str:
    """Whose answers the rows hold: the teacher's, where labelling's records are beside them."""
    return TEACHER if sibling(train_file, "records").is_file() else GIVEN


def train_result(
    trainer: Any, output_dir: Path, *, run: Any, seconds: float, sync_hint: str | None
) -> TrainResult:
    """Read a run's figures out of the trainer and its log."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return TrainResult(
        output_dir=output_dir,
        rows=len(run.rows.rows),
        steps=trainer.state.global_step,
        rows_seen=trainer.rows_seen,
        seconds=seconds,
        evaluation_seconds=trainer.evaluation_seconds,
        train_loss=sum(losses) / max(1, len(losses)),
        held_out_loss=_first_and_kept_loss(history, kept_step(trainer)),
        held_out_accuracy=_held_out_accuracy(trainer, answers_of(run.config.train_file)),
        trained_parameters=count_parameters(trainer.model)[0],
        sync_hint=sync_hint,
    )


def _held_out_accuracy(trainer: Any, truth: str) -> HeldOutAccuracy | None:
    """Of the answers given last, which are those of the weights kept."""
    if not trainer.answered:
        return None
    logged = [e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e]
    return HeldOutAccuracy(
        before=logged[0] if logged else None,
        correct=trainer.answered_right,
        total=len(trainer.answered),
        truth=truth,
    )


def kept_step(trainer: Any) -> int:
    """The optimizer step whose weights are kept: the best one where it is loaded, else the last."""
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best or trainer.state.global_step)


def _first_and_kept_loss(history: list[dict[str, Any]], kept: int) -> tuple[float, float] | None:
    found = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    at_kept = [loss for step, loss in found if step == kept]
    return (found[0][1], at_kept[-1] if at_kept else found[-1][1]) if found else None


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, list, dict, type(None))
    return {key: value if isinstance(value, plain) else str(value) for key, value in values.items()}


def save_history(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the log as JSON, and the losses as a CSV with a row per step."""
    write_json(output_dir / HISTORY_FILE, list(history))
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        by_step.setdefault(int(entry["step"]), {}).update(_loss_row(entry))
    with atomic_writer(output_dir / LOSS_FILE) as file:
        writer = _loss_writer(file)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(by_step.items()))


def start_losses(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Begin the CSV of a run that starts, or continues after ``history``."""
    with atomic_writer(output_dir / LOSS_FILE) as file:
        _loss_writer(file).writeheader()
        _loss_writer(file).writerows(map(_loss_row, history))


def append_losses(output_dir: Path, entry: Mapping[str, Any]) -> None:
    """Add a line for an entry of the log, at once readable by others."""
    with (output_dir / LOSS_FILE).open("a", encoding="utf-8") as file:
        _loss_writer(file).writerow(_loss_row(entry))


def _loss_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in LOSS_COLUMNS if name in entry}


def _loss_writer(file: IO[str]) -> "csv.DictWriter[str]":
    return csv.DictWriter(file, fieldnames=LOSS_COLUMNS, lineterminator="\n")
