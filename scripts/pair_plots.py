"""The thirteen charts of `run_full_workflow.py`: seven of the teacher's training, six of the pair.

Most are those of every report, drawn on other views of the results: answers that are objects have
no labels, so the letters of multiple choice stand for them, or the part of the questions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from prompt_distillation.data.results import Prediction, Result
from prompt_distillation.data.training_files import History
from prompt_distillation.evaluation.metrics import confusion_matrix, per_label_results, summarise
from prompt_distillation.report import evaluation_plots as plots
from prompt_distillation.report.training_plots import plot_training

LETTERS = "ABCD"
HELD_OUT, TRAINED = PARTS = ("held out", "trained on")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model of the pair.

    Attributes:
        result: of all questions.
        held_out: positions of the questions that were kept out of training.
        parameters: those of the adapter included.
        weight_bytes: of all of them, as they were loaded.
        queries_per_second: with several in flight.
    """

    title: str
    result: Result
    held_out: frozenset[int]
    parameters: int
    weight_bytes: int
    queries_per_second: float

    def part(self, name: str) -> Result:
        """Its result on the questions that were held out, or on those that were trained on."""
        return _part(self.result, lambda item: (item.index in self.held_out) == (name == HELD_OUT))

    def points(self, part: str) -> float:
        """Accuracy on a part of the questions, in percent."""
        return 100 * (self.part(part).summary.accuracy or 0.0)

    def interval(self, part: str) -> list[float]:
        """The two ends of its 95 % interval; none without a gold answer."""
        found = self.part(part).summary.accuracy_interval
        return [100 * found.low, 100 * found.high] if found else []

    @property
    def millions(self) -> float:
        """Parameters, in millions."""
        return self.parameters / 1e6

    @property
    def efficiency(self) -> float:
        """Points of held-out accuracy for a million parameters."""
        return self.points(HELD_OUT) / self.millions


def plot_workflow(history: History | None, models: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw the thirteen.

    Args:
        history: what the teacher's training logged.
        models: the teacher first, the student last.
        folder: where the PNG files go.
    """
    written = plot_training(history, folder, of_teacher=True)
    with rc_context(plots.STYLE):
        return written + [
            plots.save_picture(folder / f"{name}.png", figure)
            for name, figure in _figures(models).items()
        ]


def _figures(models: Sequence[Measured]) -> Mapping[str, Figure]:
    pair = teacher, student = models[0], models[-1]
    halves = {f"{model.title}, {name}": model.part(name) for name in PARTS for model in models}
    choices = {
        f"{model.title}, {name}": _letters(model.part(name)) for name in PARTS for model in pair
    }
    accuracy = plots.accuracy_comparison(halves)
    for bar, colour in zip(accuracy.axes[0].patches, _colours(models) * len(PARTS), strict=True):
        bar.set_color(colour)
    return {
        "accuracy_comparison": accuracy,
        "comprehensive_metrics": comprehensive_metrics(pair),
        "confusion_matrices": plots.confusion_matrices(choices),
        "delta_accuracy": _titled(
            plots.delta_accuracy(*(_by_part(model, forms_of(model)) for model in pair)),
            "Accuracy per form of question: student minus teacher",
        ),
        "delta_across_examples": _titled(
            plots.delta_across_examples(teacher.part(HELD_OUT), student.part(HELD_OUT)),
            f"Student against teacher, running total of the held-out questions "
            f"(n={len(teacher.held_out)})",
        ),
        "prediction_heatmap": _titled(
            plots.prediction_heatmap(
                {model.title: _by_part(model, parts_of(model)) for model in models}
            ),
            f"Every question, first those held out (n={len(teacher.result.predictions)})",
        ),
    }


def _titled(figure: Figure, title: str) -> Figure:
    figure.axes[0].set_title(title)
    return figure


def _colours(models: Sequence[Measured]) -> list[str]:
    return [plots.ORANGE, *[plots.GREY] * (len(models) - 2), plots.BLUE]


def parts_of(model: Measured) -> Callable[[Prediction], str]:
    """Names the part of a question: held out, or trained on."""
    return lambda item: HELD_OUT if item.index in model.held_out else TRAINED


def forms_of(model: Measured) -> Callable[[Prediction], str]:
    """Names the part of a question and its form."""
    part = parts_of(model)
    return lambda item: f"{part(item)}, {'choice' if is_choice(item) else 'short answer'}"


def is_choice(item: Prediction) -> bool:
    """Whether a question has options."""
    return "\nA) " in item.text


def comprehensive_metrics(models: Sequence[Measured]) -> Figure:
    """Accuracy, form, size, memory, speed and efficiency, a panel each; every axis begins at 0."""
    panels: dict[str, tuple[str, Callable[[Measured], float]]] = {
        "Accuracy, held out": ("%", lambda m: m.points(HELD_OUT)),
        "Accuracy, trained on": ("%", lambda m: m.points(TRAINED)),
        "Answers in the right form": ("%", lambda m: 100 * m.result.summary.parse_rate),
        "Size": ("million parameters", lambda m: m.millions),
        "Memory of the weights": ("MB", lambda m: m.weight_bytes / 1e6),
        "Speed": ("questions per second", lambda m: m.queries_per_second),
        "Efficiency": ("points, held out, per million parameters", lambda m: m.efficiency),
    }
    intervals: dict[str, Callable[[Measured], list[float]]] = {
        "Accuracy, held out": lambda m: m.interval(HELD_OUT),
        "Accuracy, trained on": lambda m: m.interval(TRAINED),
        "Efficiency": lambda m: [end / m.millions for end in m.interval(HELD_OUT)],
    }
    figure = Figure(figsize=(12, 6), layout="constrained")
    grid = list(figure.subplots(2, 4).flat)
    for axes, (title, (unit, value)) in zip(grid, panels.items(), strict=False):
        values = [value(model) for model in models]
        bars = axes.bar([model.title for model in models], values, color=_colours(models))
        axes.bar_label(bars, fmt=shown_number, padding=2)
        ends = [intervals[title](model) if title in intervals else [] for model in models]
        for place, interval in enumerate(ends):
            # Beside the number over the bar.
            axes.plot([place + 0.3] * len(interval), interval, color="black", marker="_")
        top = 100 if unit == "%" else max(*values, *(end for both in ends for end in both)) or 1
        axes.set(title=title, ylabel=unit, ylim=(0, 1.15 * top))
    first = models[0]
    grid[-1].axis("off")
    grid[-1].text(
        0, 0.95,
        f"{len(first.result.predictions)} questions, {len(first.held_out)} of them held out.\n"
        "Black lines: 95 % intervals.",
        va="top",
    )  # fmt: skip
    return figure


def shown_number(value: float) -> str:
    """Three digits, or as many as a whole number of four or more has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _part(result: Result, belongs: Callable[[Prediction], bool]) -> Result:
    kept = tuple(item for item in result.predictions if belongs(item))
    return replace(result, predictions=kept, summary=summarise(kept, are_labels=False))


def _letters(result: Result) -> Result:
    """The multiple-choice questions, by letter; any other answer is no answer."""
    chosen = _part(result, is_choice)
    items = tuple(
        replace(
            item,
            predicted=_letter(item.predicted),
            ground_truth=_letter(item.ground_truth),
        )
        for item in chosen.predictions
    )
    return replace(chosen, predictions=items, confusion_matrix=confusion_matrix(items, LETTERS))


def _letter(answer: str | None) -> str | None:
    said = json.loads(answer)["answer"] if answer else None
    return said if said in set(LETTERS) else None


def _by_part(model: Measured, part: Callable[[Prediction], str]) -> Result:
    """The result with a question's part as its label, which a wrong answer misses."""
    items = tuple(
        replace(
            item,
            ground_truth=part(item),
            predicted=part(item) if item.correct else item.predicted and "wrong",
        )
        for item in model.result.predictions
    )
    names = sorted({part(item) for item in model.result.predictions})
    matrix = confusion_matrix(items, [*names, "wrong"])
    return replace(
        model.result,
        predictions=items,
        confusion_matrix=matrix,
        per_language_accuracy=per_label_results(matrix, items),
    )
