"""How sure a share is, and how both are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
"""How often inputs are drawn again for an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure and how sure it is.

    Attributes:
        interval: 95 %; None where there are too few inputs to say.
    """

    value: float
    interval: Interval | None

    @property
    def shown(self) -> str:
        """As people read it: ``0.521 (0.498-0.544)``; one decimal from 100 on."""
        digits = 3 if abs(self.value) < 100 else 1
        shown = f"{self.value:,.{digits}f}"
        if self.interval is None:
            return shown
        return f"{shown} ({self.interval.low:,.{digits}f}-{self.interval.high:,.{digits}f})"


def wilson_interval(correct: int, total: int) -> Interval | None:
    """The 95 % Wilson score interval of ``correct / total``; None for no trials.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    Trials count as independent; inputs of the same group are not, so their interval is a
    little narrower than it should be.
    """
    from scipy.stats import binomtest

    if total == 0:
        return None
    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(low=float(interval.low), high=float(interval.high))


def mean_interval(mean: float, n: int) -> Interval | None:
    """The 95 % Wilson score interval of a mean of ``n`` scores in [0, 1]; None for no scores.

    For scores of 0 and 1 it is `wilson_interval`. Scores between them, such as half a point for a
    tie, vary less, so the interval is then a little wider than it has to be.
    """
    if n == 0:
        return None
    z = 1.959964
    centre = mean + z * z / (2 * n)
    half = z * ((mean * (1 - mean) + z * z / (4 * n)) / n) ** 0.5
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return Interval(low=max(0.0, low), high=min(1.0, high))


def share_of(count: int, total: int) -> Estimate:
    """``count / total`` with its Wilson interval; 0 of 0 is 0, without one."""
    return Estimate(value=count / total if total else 0.0, interval=wilson_interval(count, total))


def bootstrap(figure: "Callable[[NDArray[Any]], float]", rows: "ArrayLike") -> Estimate:
    """A figure over inputs with its 95 % percentile bootstrap interval, for two inputs or more.

    Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. Inputs count as
    independent, as in `wilson_interval`.

    Args:
        figure: of the rows of some inputs, perhaps several times the same.
        rows: of all inputs; each a number, or an array of numbers.
    """
    import numpy as np

    array, interval = np.asarray(rows), None
    if len(array) > 1:
        draws = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
        low, high = np.quantile([figure(array[places]) for places in draws], [0.025, 0.975])
        interval = Interval(low=float(low), high=float(high))
    return Estimate(value=figure(array), interval=interval)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean of a figure of each input, with its bootstrap interval."""
    return bootstrap(lambda rows: float(rows.mean()), values)


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share as people read it; a dash where there is none."""
    return "-" if share is None else f"{share:.{digits}%}"


def with_interval(share: float | None, interval: Interval | None) -> str:
    """``95.2% (95% CI 94.2-96.0%)``; a dash where there is nothing to say."""
    if share is None or interval is None:
        return "-"
    return f"{share:.1%} (95% CI {interval.low * 100:.1f}-{interval.high * 100:.1f}%)"
