"""What `compare.py`'s prices make of what it measured."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.data.files import read_json, sibling
from prompt_distillation.data.run_files import MANIFEST_FILE
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.compare_config import CompareConfig

if TYPE_CHECKING:  # what these import takes longer than --help may
    from prompt_distillation.data.comparison import Bill, Cell, QueryCost
    from prompt_distillation.evaluation.comparison import CellRun

logger = logging.getLogger(__name__)


def query_cost(config: CompareConfig, run: "CellRun") -> "QueryCost | None":
    """What a million queries of a cell cost; None where no prices were given."""
    from prompt_distillation.evaluation.costs import TokenPrices, cost_by_time, cost_by_tokens

    if config.costs.price_per_hour is not None:
        return cost_by_time(
            config.costs.price_per_hour, queries_per_second=run.used.queries_per_second
        )
    teacher = run.plan.key.startswith("teacher")
    prompt = config.costs.teacher_price_in if teacher else config.costs.student_price_in
    completion = config.costs.teacher_price_out if teacher else config.costs.student_price_out
    if prompt is None or completion is None:
        return None
    return cost_by_tokens(
        TokenPrices(
            prompt=prompt,
            completion=completion,
            cached_prompt=config.costs.teacher_price_cached if teacher else None,
        ),
        prompt_tokens=run.used.prompt_tokens_per_query,
        cached_tokens=(run.used.cached_tokens or 0) / len(run.predictions),
        completion_tokens=run.used.completion_tokens_per_query,
    )


def make_bill(config: CompareConfig, cells: "tuple[Cell, ...]") -> "Bill | None":
    """The student held against the teacher; None unless both have a cost."""
    from prompt_distillation.evaluation.costs import reckon

    costs = {cell.key: cell.cost for cell in cells}
    teacher, student = costs.get("teacher"), costs.get("student")
    if teacher is None or student is None:
        return None
    return reckon(
        teacher, student, training_cost=training_cost(config), currency=config.costs.currency
    )


def training_cost(config: CompareConfig) -> float:
    """What labelling and training cost: as told, or their hours at the machine's price."""
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
    """Say if the dataset was not labelled in the run whose hours its manifest records."""
    try:
        fields: Any = read_json(path)
        made, of = fields["requests_made"], fields["counts"]["requests"]
    except (InputError, KeyError, TypeError):
        return  # that there are no hours either is told with them
    if made < of:
        logger.warning(
            "%s is of a run that made %d of %d requests (it was resumed, or merged shards): the "
            "hours of the others are not on the bill; see --training_cost.",
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
        logger.warning("%s does not say how long it took: its hours are not on the bill.", path)
        return 0.0
