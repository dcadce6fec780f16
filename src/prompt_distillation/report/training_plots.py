"""Charts of a training run, from what it logged: `TRAINING_PICTURES`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prompt_distillation.data.training_files import History
from prompt_distillation.report.evaluation_plots import (
    BLUE,
    INK,
    ORANGE,
    STYLE,
    one_axes,
    save_picture,
)

TRAINING_PICTURES = (
    "training_loss", "training_loss_by_epoch", "learning_rate", "gradient_norms", "training_speed",
    "training_summary", "training_dashboard",
)  # fmt: skip


def plot_training(
    history: History | None,
    output_dir: Path,
    *,
    charts: Sequence[str] = TRAINING_PICTURES,
    of_teacher: bool = False,
) -> list[Path]:
    """Draw a finished run, each chart as ``NAME.png``.

    Args:
        history: what the run logged.
        output_dir: where the PNG files go.
        charts: some of `TRAINING_PICTURES`.
        of_teacher: the files, the titles and the colour say that a teacher was trained.

    Returns:
        The files written; none where the run logged no training loss.
    """
    if not any("loss" in entry for entry in history or ()):
        return []
    prefix = "teacher_" if of_teacher else ""
    colours = cycler(color=[ORANGE if of_teacher else BLUE])
    with rc_context({**STYLE, "axes.prop_cycle": colours}):
        figures = {name: _figure(name, history or ()) for name in charts}
        if of_teacher:
            for axes in (axes for figure in figures.values() for axes in figure.axes):
                axes.set_title(f"Teacher: {axes.get_title('left')}")
        return [
            save_picture(output_dir / f"{prefix}{name}.png", figure)
            for name, figure in figures.items()
        ]


def _figure(name: str, history: History) -> Figure:
    if name == "training_dashboard":
        return _dashboard(history)
    figure, axes = one_axes(8, 4.5)
    _DRAW[name](axes, history)
    return figure


def series(history: History, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one figure, in order, where it was logged."""
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    return [step for step, _ in points], [value for _, value in points]


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and as many before as after it, at most a twentieth of all.

    Unlike an exponential mean it does not lag behind a loss that falls.
    """
    result: list[float] = []
    for i in range(len(values)):
        reach = min(len(values) // 40, i, len(values) - 1 - i)
        near = values[i - reach : i + reach + 1]
        result.append(sum(near) / len(near))
    return result


def loss_by_epoch(history: History) -> tuple[list[int], list[float]]:
    """Epochs from 1 and the mean training loss within each."""
    sums: dict[int, list[float]] = defaultdict(list)
    for entry in history:
        if "loss" in entry:
            # The last step of an epoch is logged as the whole number.
            sums[max(1, -(-round(entry["epoch"] * 1e6) // 10**6))].append(entry["loss"])
    epochs = sorted(sums)
    return epochs, [sum(sums[epoch]) / len(sums[epoch]) for epoch in epochs]


def training_figures(history: History) -> dict[str, str]:
    """The run in numbers, as texts for a table."""
    steps, losses = series(history, "loss")
    rows = {
        "optimizer steps": f"{steps[-1]:,.0f}",
        "first training loss": f"{losses[0]:.4f}",
        "last training loss": f"{losses[-1]:.4f}",
    }
    _, held_out = series(history, "eval_loss")
    if held_out:
        rows |= {
            "held-out loss before": f"{held_out[0]:.4f}",
            "held-out loss after": f"{held_out[-1]:.4f}",
            "best held-out loss": f"{min(held_out):.4f}",
        }
    _, accuracy = series(history, "eval_accuracy")
    if accuracy:
        rows["held-out answers as in the data"] = f"{accuracy[-1]:.1%}"
    _, rate = series(history, "rows_per_second")
    if rate:
        rows["rows per second (mean)"] = f"{sum(rate) / len(rate):.1f}"
    _, memory = series(history, "peak_memory_gib")
    if memory:
        rows["peak memory"] = f"{max(memory):.2f} GiB"
    return rows


def _draw_loss(axes: Any, history: History) -> None:
    steps, losses = series(history, "loss")
    axes.plot(steps, losses, alpha=0.4, linewidth=1, label="training")
    axes.plot(steps, smoothed(losses), label="training, smoothed")
    held_out_steps, held_out = series(history, "eval_loss")
    if held_out:
        axes.plot(held_out_steps, held_out, "o--", color=INK, label="held out", markersize=4)
    axes.legend()
    _describe(axes, "Loss", "nats per trained token")


def _draw_loss_by_epoch(axes: Any, history: History) -> None:
    epochs, losses = loss_by_epoch(history)
    axes.bar(epochs, losses)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _describe(axes, "Mean training loss by epoch", "nats per trained token", x="epoch")


def _draw_learning_rate(axes: Any, history: History) -> None:
    axes.plot(*series(history, "learning_rate"))
    _describe(axes, "Learning rate", "learning rate")


def _draw_gradient_norm(axes: Any, history: History) -> None:
    axes.plot(*series(history, "grad_norm"))
    _describe(axes, "Gradient norm before clipping", "L2 norm")


def _draw_speed(axes: Any, history: History) -> None:
    axes.plot(*series(history, "tokens_per_second"))
    axes.set_ylim(bottom=0)
    _describe(axes, "Training speed", "tokens per second")


def _draw_summary(axes: Any, history: History) -> None:
    axes.axis("off")
    rows = [list(row) for row in training_figures(history).items()]
    table = axes.table(cellText=rows, cellLoc="left", loc="center", colWidths=[0.6, 0.4])
    table.scale(1, 1.6)
    axes.set_title("Training summary")


_DRAW: dict[str, Callable[[Any, History], None]] = {
    "training_loss": _draw_loss,
    "training_loss_by_epoch": _draw_loss_by_epoch,
    "learning_rate": _draw_learning_rate,
    "gradient_norms": _draw_gradient_norm,
    "training_speed": _draw_speed,
    "training_summary": _draw_summary,
}


def _dashboard(history: History) -> Figure:
    figure = Figure(figsize=(13, 8), layout="constrained")
    panels = (_draw_loss, _draw_learning_rate, _draw_gradient_norm, _draw_speed)
    for axes, draw in zip(figure.subplots(2, 2).flat, panels, strict=True):
        draw(axes, history)
    return figure


def _describe(axes: Any, title: str, y: str, *, x: str = "optimizer step") -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
