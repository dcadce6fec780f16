from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from prompt_distillation.data.inputs import Input
from prompt_distillation.data.results import Prediction
from prompt_distillation.evaluation.selection import TeacherRecord, TestItem
from prompt_distillation.tasks import Task, load_task

MakeItem = Callable[..., TestItem]
MakePrediction = Callable[..., Prediction]


@pytest.fixture(scope="session")
def language_task() -> Task:
    return load_task(Path(__file__).parents[2] / "tasks" / "language")


@pytest.fixture
def make_item() -> MakeItem:
    def make(
        index: int, text: str = "Bonjour", truth: str | None = "fr", teacher: str | None = None
    ) -> TestItem:
        return TestItem(
            input=Input(index=index, text=text, group=f"g{index}", gold=truth),
            truth=truth,
            teacher=TeacherRecord(answer=teacher) if teacher else None,
            trained_on=False,
        )

    return make


@pytest.fixture
def make_prediction() -> MakePrediction:
    def make(
        truth: str | None,
        predicted: str | None,
        *,
        index: int = 0,
        teacher: str | None = None,
        teacher_asked: bool = False,
        probabilities: Mapping[str, float] | None = None,
    ) -> Prediction:
        return Prediction(
            index=index,
            text=f"text {index}",
            group=f"g{index}",
            predicted=predicted,
            ground_truth=truth,
            correct=None if truth is None else predicted == truth,
            gold=truth,
            teacher=teacher,
            teacher_asked=teacher_asked,
            label_probabilities=probabilities,
        )

    return make
