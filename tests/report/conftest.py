from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.comparison import (
    Cell,
    Comparison,
    Latency,
    QueryCost,
    StudentConfidence,
)
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import Result
from prompt_distillation.data.splits import input_key
from prompt_distillation.evaluation.costs import cost_by_time, cost_of_cascade, make_bill
from prompt_distillation.evaluation.evaluator import build_result
from prompt_distillation.evaluation.metrics import usage
from prompt_distillation.evaluation.predictions import prediction_of
from prompt_distillation.evaluation.selection import LabelledData, TeacherRecord, select
from prompt_distillation.evaluation.text_scores import text_scores
from prompt_distillation.tasks import Answer, Task, load_task

MakeResult = Callable[..., Result]

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
SAMPLES = (
    ("Good morning", "en"),
    ("صباح الخير يا جدتي", "ar"),
    ("सुप्रभात, दादी जी", "hi"),
    ("Guten Morgen, Oma", "de"),
    (HOSTILE, "ot"),
)


@pytest.fixture(scope="session")
def language_task() -> Task:
    return load_task(Path(__file__).parents[2] / "tasks" / "language")


@pytest.fixture(scope="session")
def make_result(language_task: Task) -> MakeResult:
    """A result of the samples, over and over, with given positions answered wrongly."""

    def make(
        total: int,
        *,
        wrong: Sequence[int] = (),
        teacher_wrong: Sequence[int] = (),
        unparsed: Sequence[int] = (),
        scored: bool = False,
    ) -> Result:
        inputs = [
            Input(index=i, text=f"{SAMPLES[i % 5][0]} {i}", group=str(i), gold=SAMPLES[i % 5][1])
            for i in range(total)
        ]
        teacher = {
            input_key(item.text): TeacherRecord(answer="fr" if i in teacher_wrong else item.gold)
            for i, item in enumerate(inputs)
        }
        training = LabelledData(
            path=Path("d.jsonl"), present=False, rows=0, keys=frozenset(), groups=frozenset(),
            held_out_share=0.1, held_out_seed=0, teacher=teacher,
        )  # fmt: skip
        selection = select(inputs, training, split="all", max_samples=None, truth=None)
        predictions = []
        for i, item in enumerate(selection.items):
            label = None if i in unparsed else "fr" if i in wrong else item.truth
            reason = None if label else "no_label"
            made = prediction_of(
                item,
                Answer(text=label, reject_reason=reason),
                task=language_task,
                raw_output=f"Final Answer: {label} {HOSTILE}",
            )
            sure = {"en": 0.1, label: 0.6 if i in wrong else 0.9} if scored and label else None
            predictions.append(
                replace(
                    made,
                    prompt_tokens=20,
                    completion_tokens=2,
                    seconds=0.1,
                    label_probabilities=sure,
                )
            )
        return build_result(
            selection,
            tuple(predictions),
            base_model="models/tiny",
            task=language_task,
            used=usage(predictions, engine="vllm", run_seconds=2.0, startup_seconds=1.0),
            config=EvaluateConfig.of(
                model_path="m", test_file="samples.txt", train_data_file="d.jsonl"
            ),
        )

    return make


@pytest.fixture(scope="session")
def make_text_result(make_result: MakeResult) -> MakeResult:
    """A result of free texts, of which the first ``references`` have the teacher's text."""

    def make(*, references: int, total: int) -> Result:
        base = make_result(total)
        predictions = tuple(
            replace(
                item, predicted="a text", correct=None, gold=None,
                ground_truth=f"text {item.index}" if item.index < references else None,
            )
            for item in base.predictions
        )  # fmt: skip
        scores = text_scores(predictions, "teacher", prompt="Speak like a gull.")
        summary = replace(
            base.summary, accuracy=None, accuracy_interval=None, macro_f1=None, correct=0,
            evaluated=0, left_out=total,
        )  # fmt: skip
        return replace(
            base, predictions=predictions, summary=summary, truth="teacher", truths=None,
            text_scores=scores, confusion_matrix=None,
            per_language_accuracy={}, worst_performing_languages=(),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def comparison_of() -> Callable[[dict[str, Result]], Comparison]:
    def make(results: dict[str, Result], *, scored: Result | None = None) -> Comparison:
        """A comparison of ``key -> result``; the teacher is ten times slower."""
        cells = tuple(_cell(key, result) for key, result in results.items())
        costs = {cell.key: cell.cost for cell in cells}
        return Comparison(
            cells=cells,
            bill=make_bill(costs["teacher"], costs["student"], training_cost=5.0, currency="USD"),
            confidence=_confidence(scored, costs) if scored else None,
            confidence_skipped=None if scored else "switched off by --no_score_labels",
            split="all",
            truth="gold",
            config={},
            provenance={},
        )

    return make


def _confidence(scored: Result, costs: dict[str, QueryCost | None]) -> StudentConfidence:
    assert scored.confidence is not None
    assert scored.confidence.cascade is not None
    share = scored.confidence.cascade.student_share
    return StudentConfidence(
        result_file="student_scored.json", same_answers=0.99, queries_per_second=20.0,
        shown=scored.confidence,
        cascade_cost=cost_of_cascade(costs["teacher"], costs["student"], share),
    )  # fmt: skip


def _cell(key: str, result: Result) -> Cell:
    seconds = 1.0 if key.startswith("teacher") else 0.1
    latency = Latency(
        n=5, concurrency=1, p50=seconds, p95=2 * seconds, mean=seconds, first_token_p50=0.01,
        first_token_p95=0.02, queries_per_second=1 / seconds,
    )  # fmt: skip
    summary = result.summary
    return Cell(
        key=key, title=f"the {key}", model="m", adapter=None, with_prompt=False, thinking=False,
        result_file=f"{key}.json", n=summary.evaluated, accuracy=summary.accuracy,
        interval=summary.accuracy_interval, macro_f1=summary.macro_f1,
        parse_rate=summary.parse_rate, prompt_tokens_per_query=20, cached_tokens_per_query=0,
        completion_tokens_per_query=2, queries_per_second=1 / seconds, alone=latency,
        loaded=replace(latency, concurrency=8),
        cost=cost_by_time(3.6, queries_per_second=1 / seconds),
    )  # fmt: skip
