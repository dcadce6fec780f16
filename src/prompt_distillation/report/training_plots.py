"""Seven plots of a training run, from its ``log_history.json``.

``training_loss``, ``training_loss_by_epoch``, ``learning_rate``, ``gradient_norms``,
``training_speed``, ``training_dashboard`` (four panels) and ``training_summary``.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_distillation.errors import InputError

Entry = Mapping[str, Any]
Draw = Callable[[Any, Sequence[Entry]], None]

TRAINED, HELD_OUT = "#2563eb", "#dc2626"
SMOOTHING = 0.9
"""Weight of the past in the smoothed loss: an exponential mean over about ten steps."""


def plot_training(history_file: Path, output_dir: Path) -> list[Path]:
    """Draw every plot whose figures the log holds; returns the files written.

    Args:
        history_file: the ``log_history.json`` of a run.
        output_dir: where NAME.png go; made where it is missing.

    Raises:
        InputError: no such file, or one without a single training loss.
    """
    if not history_file.is_file():
        raise InputError(f"no such file: {history_file}; a finished run's log_history.json")
    history = json.loads(history_file.read_text(encoding="utf-8"))
    if not any("loss" in entry for entry in history):
        raise InputError(f"{history_file} holds no training loss; nothing to plot")
    output_dir.mkdir(parents=True, exist_ok=True)
    files = [_save(output_dir / f"{name}.png", draw, history) for name, draw in _SINGLE.items()]
    files.append(_save_dashboard(output_dir / "training_dashboard.png", history))
    return files


def series(history: Sequence[Entry], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one figure, in order, where it was logged."""
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    return [step for step, _ in points], [value for _, value in points]


def smoothed(values: Sequence[float], *, weight: float = SMOOTHING) -> list[float]:
    """Exponential mean, corrected for its start as in Adam (Kingma & Ba, 2015, section 3)."""
    result: list[float] = []
    mean = 0.0
    for i, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append(mean / (1 - weight**i))
    return result


def loss_by_epoch(history: Sequence[Entry]) -> tuple[list[int], list[float]]:
    """Epochs from 1 and the mean training loss within each."""
    sums: dict[int, list[float]] = defaultdict(list)
    for entry in history:
        if "loss" in entry:
            # The last step of an epoch is logged as the whole number.
            sums[max(1, -(-round(entry["epoch"] * 1e6) // 10**6))].append(entry["loss"])
    epochs = sorted(sums)
    return epochs, [sum(sums[epoch]) / len(sums[epoch]) for epoch in epochs]


def summary(history: Sequence[Entry]) -> dict[str, str]:
    """The run in figures, as texts for a table."""
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
        rows["held-out accuracy after"] = f"{accuracy[-1]:.1%}"
    _, rate = series(history, "rows_per_second")
    if rate:
        rows["rows per second (mean)"] = f"{sum(rate) / len(rate):.1f}"
    _, memory = series(history, "peak_memory_gib")
    if memory:
        rows["peak memory"] = f"{max(memory):.2f} GiB"
    return rows


def _draw_loss(axes: Any, history: Sequence[Entry]) -> None:
    steps, losses = series(history, "loss")
    axes.plot(steps, losses, color=TRAINED, alpha=0.3, linewidth=1)
    axes.plot(steps, smoothed(losses), color=TRAINED, label="training (smoothed)")
    held_out_steps, held_out = series(history, "eval_loss")
    if held_out:
        axes.plot(held_out_steps, held_out, "o-", color=HELD_OUT, label="held out", markersize=4)
    axes.legend()
    _label(axes, "Loss", "nats per trained token")


def _draw_loss_by_epoch(axes: Any, history: Sequence[Entry]) -> None:
    epochs, losses = loss_by_epoch(history)
    axes.bar([str(epoch) for epoch in epochs], losses, color=TRAINED)
    _label(axes, "Mean training loss by epoch", "nats per trained token", x="epoch")


def _draw_learning_rate(axes: Any, history: Sequence[Entry]) -> None:
    axes.plot(*series(history, "learning_rate"), color=TRAINED)
    _label(axes, "Learning rate", "learning rate")


def _draw_gradient_norm(axes: Any, history: Sequence[Entry]) -> None:
    axes.plot(*series(history, "grad_norm"), color=TRAINED)
    _label(axes, "Gradient norm, before clipping", "L2 norm")


def _draw_speed(axes: Any, history: Sequence[Entry]) -> None:
    axes.plot(*series(history, "tokens_per_second"), color=TRAINED)
    axes.set_ylim(bottom=0)
    _label(axes, "Speed", "tokens per second")


def _draw_summary(axes: Any, history: Sequence[Entry]) -> None:
    axes.axis("off")
    rows = [list(row) for row in summary(history).items()]
    table = axes.table(cellText=rows, cellLoc="left", loc="center", colWidths=[0.6, 0.4])
    table.scale(1, 1.6)
    axes.set_title("Training summary")


_SINGLE: dict[str, Draw] = {
    "training_loss": _draw_loss,
    "training_loss_by_epoch": _draw_loss_by_epoch,
    "learning_rate": _draw_learning_rate,
    "gradient_norms": _draw_gradient_norm,
    "training_speed": _draw_speed,
    "training_summary": _draw_summary,
}


def _label(axes: Any, title: str, y: str, *, x: str = "optimizer step") -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _save(path: Path, draw: Draw, history: Sequence[Entry]) -> Path:
    # The object interface: no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    draw(figure.subplots(), history)
    figure.savefig(path, dpi=120)
    return path


def _save_dashboard(path: Path, history: Sequence[Entry]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    panels = (_draw_loss, _draw_learning_rate, _draw_gradient_norm, _draw_speed)
    for axes, draw in zip(figure.subplots(2, 2).flat, panels, strict=True):
        draw(axes, history)
    figure.savefig(path, dpi=120)
    return path
