"""An evaluation on Weights & Biases: headline, confusion matrix, and a table of the errors."""

from typing import Any

from prompt_distillation.data.results import UNPARSEABLE, Result

ERROR_COLUMNS = ("input", "text", "truth", "predicted", "teacher", "output")


def log_to_wandb(result: Result, *, name: str) -> str:
    """Log ``result`` as a run of its own; returns the run's folder.

    W&B's environment variables decide where the run goes: project, offline, folder.
    """
    import wandb

    run = wandb.init(name=name, job_type="evaluation", config=dict(result.config))
    folder = str(run.dir)
    try:
        run.log(_panels(result, wandb))
        run.summary.update(_headline(result))
    finally:
        run.finish()
    return folder


def _headline(result: Result) -> dict[str, float | int | str]:
    summary = result.summary
    values: dict[str, Any] = {
        "eval/accuracy": summary.accuracy,
        "eval/macro_f1": summary.macro_f1,
        "eval/parse_rate": summary.parse_rate,
        "eval/evaluated": summary.evaluated,
        "eval/truth": result.truth,
        "eval/trained_on": result.overlap.texts,
    }
    if summary.accuracy_interval:
        values["eval/accuracy_low"] = summary.accuracy_interval.low
        values["eval/accuracy_high"] = summary.accuracy_interval.high
    if result.text_scores:
        for name, score in result.text_scores.named:
            values[f"eval/{name.lower().replace(' ', '_').replace('-', '_')}"] = score.value
        values["eval/compared"] = result.text_scores.n
    if result.field_scores:
        values["eval/value_f1"] = result.field_scores.f1
        values["eval/invented_values"] = result.field_scores.invented
    if result.usage:
        values["eval/queries_per_second"] = result.usage.queries_per_second
        values["eval/prompt_tokens_per_query"] = result.usage.prompt_tokens_per_query
        values["eval/completion_tokens_per_query"] = result.usage.completion_tokens_per_query
    if result.confidence:
        cascade = result.confidence.cascade
        error = result.confidence.calibration.expected_calibration_error
        values["eval/expected_calibration_error"] = error
        values["eval/cascade_student_share"] = cascade.student_share if cascade else None
    return {key: value for key, value in values.items() if value is not None}


def _panels(result: Result, wandb: Any) -> dict[str, Any]:
    judged = [item for item in result.predictions if item.correct is not None]
    errors = [
        [
            item.index,
            item.text,
            item.ground_truth,
            item.predicted or UNPARSEABLE,
            item.teacher or UNPARSEABLE,
            item.raw_output or "",
        ]
        for item in judged
        if not item.correct
    ]
    panels = {"eval/errors": wandb.Table(columns=list(ERROR_COLUMNS), data=errors)}
    if result.confusion_matrix is not None and judged:
        labels = list(result.confusion_matrix.labels)
        panels["eval/confusion_matrix"] = wandb.plot.confusion_matrix(
            y_true=[labels.index(item.ground_truth or UNPARSEABLE) for item in judged],
            preds=[labels.index(item.predicted or UNPARSEABLE) for item in judged],
            class_names=labels,
        )
    return panels
