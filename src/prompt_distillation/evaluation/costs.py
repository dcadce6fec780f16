"""The bill: what a million queries cost, when the training has paid for itself, what it saves."""

from dataclasses import dataclass

from prompt_distillation.data.comparison import Bill, MonthlySaving, QueryCost
from prompt_distillation.errors import ConfigError

MONTHLY_QUERIES = (10_000, 100_000, 1_000_000)
DAYS_PER_MONTH = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrices:
    """Prices of one model, in the same currency per million tokens.

    Attributes:
        prompt: tokens in.
        completion: tokens out.
        cached_prompt: tokens in that the prefix cache served; None: as ``prompt``.
    """

    prompt: float
    completion: float
    cached_prompt: float | None = None


def cost_by_tokens(
    prices: TokenPrices, *, prompt_tokens: float, cached_tokens: float, completion_tokens: float
) -> QueryCost:
    """Cost from mean tokens per query; ``cached_tokens`` are part of ``prompt_tokens``."""
    cached_price = prices.prompt if prices.cached_prompt is None else prices.cached_prompt
    cost = (
        (prompt_tokens - cached_tokens) * prices.prompt
        + cached_tokens * cached_price
        + completion_tokens * prices.completion
    )
    # Prices are per million tokens, so the sum per query is the cost of a million queries.
    return QueryCost(per_million_queries=cost, basis="tokens")


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


def reckon(teacher: QueryCost, student: QueryCost, *, training_cost: float, currency: str) -> Bill:
    """Hold the two against each other.

    Raises:
        ConfigError: the teacher costs nothing.
    """
    if teacher.per_million_queries <= 0:
        raise ConfigError("the teacher's queries cost nothing; set prices above 0")
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
