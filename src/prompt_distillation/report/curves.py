"""Training curves for the page: read from a run's table of losses, drawn as SVG points."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.data.files import read_lines
from prompt_distillation.errors import InputError

LOSS_FILE = "loss.csv"
LEFT, RIGHT, TOP, BOTTOM = 50, 630, 10, 200
"""Of the drawing, in SVG units; the template draws its axes there."""


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """A loss (nats per token) against training steps.

    Attributes:
        points: ``(step, loss)``.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Curves as a template takes them.

    Attributes:
        lines: name, colour and ``points`` of each polyline.
        top: the highest loss.
        end: the last step.
    """

    lines: list[dict[str, str]]
    top: str = ""
    end: str = ""


def read_curves(run_folder: Path) -> list[LossCurve]:
    """Training and held-out loss of a run; empty where it left no table of losses.

    Raises:
        InputError: the table is not what training writes.
    """
    path = run_folder / LOSS_FILE
    if not path.is_file():
        return []
    rows = list(csv.DictReader(line for _, line in read_lines(path)))
    curves = [
        LossCurve(name="training loss", colour="#0072B2", points=_points(rows, "loss", where=path)),
        LossCurve(
            name="held-out loss", colour="#D55E00", points=_points(rows, "eval_loss", where=path)
        ),
    ]
    return [curve for curve in curves if curve.points]


def _points(
    rows: Sequence[Mapping[str, str]], name: str, *, where: Path
) -> list[tuple[float, float]]:
    try:
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: not a table of losses ({error!r})") from error
    return [point for point in points if math.isfinite(point[1])]


def draw_curves(curves: Sequence[LossCurve]) -> Drawing:
    """Scale ``curves`` into the drawing, from 0 up."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return Drawing(lines=[])
    end, top = max(step for step, _ in points) or 1, max(loss for _, loss in points) or 1

    def place(step: float, loss: float) -> str:
        across = LEFT + (RIGHT - LEFT) * step / end
        return f"{across:.1f},{BOTTOM - (BOTTOM - TOP) * loss / top:.1f}"

    lines = [
        {
            "name": curve.name,
            "colour": curve.colour,
            "points": " ".join(place(*point) for point in curve.points),
        }
        for curve in curves
    ]
    return Drawing(lines=lines, top=f"{top:.3g}", end=f"{end:.0f}")
