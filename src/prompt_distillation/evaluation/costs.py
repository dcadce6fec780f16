"""Costs: a million queries, when the training has paid for itself, and what it saves."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_distillation.config.compare_config import CompareConfig, CostConfig
from prompt_distillation.data.comparison import (
    STUDENT_KEY,
    TEACHER_KEY,
    Bill,
    Cell,
    MonthlySaving,
    QueryCost,
)
from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.data.results import Usage
from prompt_distillation.data.training_files import MANIFEST_FILE
from prompt_distillation.errors import InputError

logger = logging.getLogger(__name__)

MONTHLY_QUERIES = (10_000, 100_000, 1_000_000)
DAYS_PER_MONTH = 30.0


def query_cost(config: CostConfig, *, of_teacher: bool, used: Usage, n: int) -> QueryCost | None:
    """What a million queries of a model cost; None where no prices were given."""
    if config.price_per_hour is not None:
        return cost_by_time(config.price_per_hour, queries_per_second=used.queries_per_second)
    prices = config.teacher_prices if of_teacher else config.student_prices
    cost = prices.cost(
        input_tokens=used.prompt_tokens_per_query,
        cached_tokens=(used.cached_tokens or 0) / n,
        output_tokens=used.completion_tokens_per_query,
    )
    return None if cost is None else QueryCost(per_million_queries=cost * 1e6, basis="tokens")


def cost_by_time(price_per_hour: float, *, queries_per_second: float) -> QueryCost:
    """Cost from the machine's price and its throughput in a full batch."""
    hours = 1e6 / queries_per_second / 3600
    return QueryCost(per_million_queries=hours * price_per_hour, basis="machine time")


def cost_of_cascade(
    teacher: QueryCost | None, student: QueryCost | None, student_share: float | None
) -> QueryCost | None:
    """Every query costs the student's, and the share that falls back the teacher's too."""
    if teacher is None or student is None or student_share is None:
        return None
    return QueryCost(
        per_million_queries=student.per_million_queries
        + (1 - student_share) * teacher.per_million_queries,
        basis=student.basis,
    )


def make_bill(
    teacher: QueryCost, student: QueryCost, *, training_cost: float, currency: str
) -> Bill:
    """The costs of a teacher that costs something, and of a student, side by side."""
    per_query = (teacher.per_million_queries - student.per_million_queries) / 1e6
    return Bill(
        currency=currency,
        training_cost=training_cost,
        break_even_queries=training_cost / per_query if per_query > 0 else None,
        saving_share=1 - student.per_million_queries / teacher.per_million_queries,
        months=tuple(
            _month(queries, teacher, student, training_cost) for queries in MONTHLY_QUERIES
        ),
    )


def _month(
    queries: int, teacher: QueryCost, student: QueryCost, training_cost: float
) -> MonthlySaving:
    before = teacher.per_million_queries * queries / 1e6
    after = student.per_million_queries * queries / 1e6
    saving = before - after
    return MonthlySaving(
        queries_per_month=queries,
        before=before,
        after=after,
        saving=saving,
        return_on_training=12 * saving / training_cost if training_cost else None,
        payback_days=training_cost / saving * DAYS_PER_MONTH if saving > 0 else None,
    )


def bill_of(config: CompareConfig, cells: Sequence[Cell]) -> Bill | None:
    """The bill of a comparison; None unless teacher and student both have a cost."""
    costs = {cell.key: cell.cost for cell in cells}
    teacher, student = costs.get(TEACHER_KEY), costs.get(STUDENT_KEY)
    if teacher is None or student is None or not teacher.per_million_queries:
        return None
    return make_bill(
        teacher, student, training_cost=training_cost(config), currency=config.costs.currency
    )


def training_cost(config: CompareConfig) -> float:
    """What labelling and training cost: as given, or their hours at the machine's price."""
    if config.costs.training_cost is not None:
        return config.costs.training_cost
    if config.costs.price_per_hour is None:
        logger.warning("The cost of labelling and training is taken as 0; see --training_cost.")
        return 0.0
    labelling = sibling(config.test.train_data_file, "manifest")
    _warn_of_other_runs(labelling)
    training = Path(config.student.model_name) / MANIFEST_FILE
    seconds = _seconds_of(labelling) + _seconds_of(training, "result")
    return seconds / 3600 * config.costs.price_per_hour


def _warn_of_other_runs(path: Path) -> None:
    """Warn if some of the dataset was labelled before the run whose hours its manifest records."""
    try:
        fields: Any = read_json(path)
        made, of = fields["requests_made"], fields["counts"]["requests"]
    except (InputError, KeyError, TypeError):
        return  # the message about missing hours says so too
    if made < of:
        logger.warning(
            "%s is of a run that made %d of %d requests (it was resumed, or merged shards): the "
            "cost of the other requests is not included; see --training_cost.",
            path, made, of,
        )  # fmt: skip


def _seconds_of(path: Path, *keys: str) -> float:
    """The seconds that a manifest records, below ``keys``; 0, and a warning, where it does not."""
    try:
        fields: Any = read_json(path)
        for key in keys:
            fields = fields[key]
        return float(fields["seconds"])
    except (InputError, KeyError, TypeError, ValueError):
        logger.warning("%s does not say how long it took: its cost is not included.", path)
        return 0.0
