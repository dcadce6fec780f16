"""What all pictures share: colours, axes, intervals.

Colours are Okabe and Ito's (2008), told apart with any colour vision. Figures are made without
pyplot, which keeps global state.
"""

from typing import Any

from matplotlib.figure import Figure

from prompt_distillation.data.intervals import Interval

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999",
)  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY)
DOTS_PER_INCH = 150


def one_axes(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of ``width x height`` inches, and its only axes."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DOTS_PER_INCH)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def whisker(
    axes: Any, place: float, share: float, interval: Interval | None, *, horizontal: bool = False
) -> None:
    """Draw an interval around ``share``; nothing where there is none."""
    if interval is None:
        return
    reach = [[max(share - interval.low, 0)], [max(interval.high - share, 0)]]
    style = {"color": "black", "capsize": 3, "linewidth": 1}
    if horizontal:
        axes.errorbar(share, place, xerr=reach, **style)
    else:
        axes.errorbar(place, share, yerr=reach, **style)
