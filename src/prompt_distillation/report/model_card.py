"""The model card: metrics that the Hub reads (`model-index`), and a section that people read."""

import re
from pathlib import Path
from typing import Any

from prompt_distillation.data.files import atomic_writer
from prompt_distillation.data.intervals import with_interval
from prompt_distillation.data.results import Agreement, Result
from prompt_distillation.errors import ModelError

CARD_FILE = "README.md"
START, END = "<!-- evaluation -->", "<!-- /evaluation -->"


def update_model_card(folder: Path, result: Result) -> Path:
    """Write ``result`` into the card of the model in ``folder``, leaving the rest as it is.

    An evaluation section that an earlier call wrote is replaced.

    Raises:
        ModelError: there is no such folder, the card's head is not YAML, or ``result`` has no
            accuracy.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD_FILE
    if not folder.is_dir():
        raise ModelError(f"no model at {folder}: there is no card to update")
    if result.summary.accuracy is None:
        raise ModelError("the result has no accuracy; a card's metrics need one")
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {folder.name}\n"
    try:
        # Its checks need the Hub; they are made when the card is pushed.
        card = ModelCard(text, ignore_metadata_errors=True)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: its head is not YAML ({error}); mend it") from error
    data: Any = card.data  # its fields are set at run time
    data.model_name = folder.resolve().name
    data.eval_results = _eval_results(result)
    card.text = _with_section(card.text, _section(result))
    with atomic_writer(path) as file:
        file.write(str(card))
    return path


def _eval_results(result: Result) -> list[Any]:
    from huggingface_hub import EvalResult

    metrics = [("accuracy", result.summary.accuracy), ("f1", result.summary.macro_f1)]
    truths = result.truths
    against_teacher = truths.student_teacher if truths else None
    names = {"accuracy": f"Accuracy ({result.truth})", "f1": f"Macro-F1 ({result.truth})"}
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=result.task,
            dataset_type=Path(result.test_file).stem,
            dataset_name=Path(result.test_file).name,
            dataset_split=result.split,
            metric_type=kind,
            metric_name=names[kind],
            metric_value=round(value, 4),
        )
        for kind, value in metrics
        if value is not None
    ]
    if against_teacher and against_teacher.accuracy is not None:
        results.append(
            EvalResult(
                task_type="text-classification",
                task_name=result.task,
                dataset_type=Path(result.test_file).stem,
                dataset_name=Path(result.test_file).name,
                dataset_split=result.split,
                metric_type="agreement",
                metric_name="Agreement with the teacher",
                metric_value=round(against_teacher.accuracy, 4),
            )
        )
    return results


def _section(result: Result) -> str:
    truths = result.truths
    rows = [
        ("this model against gold", truths.student_gold if truths else None),
        ("teacher against gold", truths.teacher_gold if truths else None),
        ("this model against the teacher", truths.student_teacher if truths else None),
    ]
    lines = [START, "## Evaluation", "", _description(result), ""]
    lines += ["| | agreement | n |", "|---|---|---|"]
    lines += [_row(name, agreement) for name, agreement in rows if agreement and agreement.n]
    return "\n".join([*lines, "", END])


def _description(result: Result) -> str:
    overlap = result.overlap
    trained = (
        f"{overlap.texts} of them were trained on"
        if overlap.checked
        else "whether they were trained on could not be checked"
    )
    return (
        f"Task `{result.task}`, `{Path(result.test_file).name}`, split `{result.split}`, "
        f"{result.summary.total_samples} inputs; {trained}. Measured {result.timestamp}."
    )


def _row(name: str, agreement: Agreement) -> str:
    return f"| {name} | {with_interval(agreement.accuracy, agreement.interval)} | {agreement.n} |"


def _with_section(text: str, section: str) -> str:
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section, text)
    return f"{text.rstrip()}\n\n{section}\n"
