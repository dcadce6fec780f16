import json
import logging
from pathlib import Path

import pytest

from prompt_distillation.config import TokenPriceConfig
from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.data.comparison import QueryCost
from prompt_distillation.evaluation.costs import (
    cost_by_time,
    make_bill,
    training_cost,
)


def test_the_cost_of_tokens() -> None:
    prices = {"price_per_million_input_tokens": 0.2, "price_per_million_output_tokens": 2.0}
    tokens = {"input_tokens": 2100, "cached_tokens": 2000, "output_tokens": 300}
    cheaper = TokenPriceConfig(**prices, price_per_million_cached_tokens=0.05)

    # 100 x 0.2 + 2000 x 0.05 + 300 x 2 = 720 millionths
    assert cheaper.cost(**tokens) == pytest.approx(720e-6)
    # Cached tokens cost what others do, unless they have a price: 2100 x 0.2 + 300 x 2
    assert TokenPriceConfig(**prices).cost(**tokens) == pytest.approx(1020e-6)
    assert TokenPriceConfig().cost(**tokens) is None


def test_a_million_queries_by_the_hour() -> None:
    # 1e6 queries at 100 a second are 2.777 hours
    assert cost_by_time(3.6, queries_per_second=100).per_million_queries == pytest.approx(10)


def test_break_even_and_months() -> None:
    teacher = QueryCost(per_million_queries=3093.0, basis="tokens")
    student = QueryCost(per_million_queries=53.0, basis="tokens")

    bill = make_bill(teacher, student, training_cost=1.0, currency="USD")

    assert bill.break_even_queries == pytest.approx(1e6 / 3040)
    assert bill.saving_share == pytest.approx(1 - 53 / 3093)
    assert [month.queries_per_month for month in bill.months] == [10_000, 100_000, 1_000_000]
    assert [month.saving for month in bill.months] == pytest.approx([30.4, 304, 3040])
    assert bill.months[0].return_on_training == pytest.approx(12 * 30.4)
    assert bill.months[0].payback_days == pytest.approx(30 / 30.4)


def test_a_dearer_student_never_pays() -> None:
    bill = make_bill(
        QueryCost(per_million_queries=1.0, basis="tokens"),
        QueryCost(per_million_queries=2.0, basis="tokens"),
        training_cost=5.0,
        currency="USD",
    )

    assert bill.break_even_queries is None
    assert bill.months[0].payback_days is None
    assert bill.saving_share == -1.0


def cost_of(folder: Path, **options) -> float:
    """What labelling and half an hour of training cost, at 2 an hour."""
    (folder / "training_manifest.json").write_text('{"result": {"seconds": 1800}}')
    config = CompareConfig.of(
        student_path=str(folder), train_data_file=folder / "out.jsonl", price_per_hour=2, **options
    )
    return training_cost(config)


def write_labelling(folder: Path, *, made: int) -> None:
    manifest = {"seconds": 3600, "requests_made": made, "counts": {"requests": 10}}
    (folder / "out.manifest.json").write_text(json.dumps(manifest))


def test_the_hours_are_those_of_the_manifests(tmp_path: Path, caplog) -> None:
    write_labelling(tmp_path, made=10)

    assert cost_of(tmp_path) == pytest.approx(3.0)
    assert not caplog.records
    assert cost_of(tmp_path, training_cost=7) == 7


def test_hours_that_no_manifest_holds_are_named(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert cost_of(tmp_path) == pytest.approx(1.0)
    assert "does not say how long it took" in caplog.text

    write_labelling(tmp_path, made=4)
    with caplog.at_level(logging.WARNING):
        cost_of(tmp_path)
    assert "made 4 of 10" in caplog.text
