"""How sure a share is, and how both are written."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


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


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share as people read it; a dash where there is none."""
    return "-" if share is None else f"{share:.{digits}%}"


def with_interval(share: float | None, interval: Interval | None) -> str:
    """``95.2% (95% CI 94.2-96.0%)``; a dash where there is nothing to say."""
    if share is None or interval is None:
        return "-"
    return f"{share:.1%} (95% CI {interval.low * 100:.1f}-{interval.high * 100:.1f}%)"
