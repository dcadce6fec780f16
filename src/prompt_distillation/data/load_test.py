"""What a load test of served models measured: the layout of `benchmarks/serving_load.py`'s JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.data.result_files import read_written


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One model under load; times in milliseconds, from request to first or last token."""

    requests_per_second: float
    first_token_p50: float
    first_token_p99: float
    latency_p50: float
    latency_p99: float
    tokens_in: float
    tokens_out: float
    failed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadTest:
    """The same requests, at the same rate per second, to each model by its name."""

    requests: int
    request_rate: float
    models: Mapping[str, ServedModel]

    def __post_init__(self) -> None:
        _ = self.rows  # formats every number, so that a text among them is an error here

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """A name and each model's figure, for a table."""
        rows = {
            "requests/s": "{0.requests_per_second:,.1f}",
            "first token p50 / p99": "{0.first_token_p50:,.0f} / {0.first_token_p99:,.0f} ms",
            "latency p50 / p99": "{0.latency_p50:,.0f} / {0.latency_p99:,.0f} ms",
            "tokens in / out, all requests": "{0.tokens_in:,.0f} / {0.tokens_out:,.0f}",
            "failed requests": "{0.failed:,.0f}",
        }
        return [
            (name, [shown.format(model) for model in self.models.values()])
            for name, shown in rows.items()
        ]


def read_load_test(path: Path) -> LoadTest:
    """Read what the benchmark wrote.

    Raises:
        InputError: no such file, or not one of a load test.
    """
    return read_written(path, LoadTest, by="benchmarks/serving_load.py")
