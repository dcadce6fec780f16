"""The student of the Python API, with the example models."""

import asyncio
from pathlib import Path

import pytest

from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.student import Student

TEXTS = ["Guten Morgen", "Good morning", "Buenos dias"]


def test_answers_come_in_the_order_of_the_texts(tiny_models):
    with Student(tiny_models.student, engine="transformers", max_tokens=400) as student:
        together = student.answer_batch(TEXTS)
        assert together == [student.answer(text) for text in TEXTS]
        assert "on transformers" in repr(student)
    assert "not loaded yet" in repr(student)


async def test_it_answers_inside_a_running_event_loop_as_notebooks_have(tiny_models):
    assert asyncio.get_running_loop().is_running()
    with Student(tiny_models.student, engine="transformers", max_tokens=400) as student:
        assert student.answer_batch([]) == []
        assert isinstance(student.answer("Hello"), str)


def test_a_path_without_a_model_is_the_same_error_as_everywhere(tmp_path: Path):
    student = Student(tmp_path / "nothing", engine="transformers")
    with pytest.raises(ModelError, match="no model at"):
        student.answer("Hello")
    student.close()


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'max_tokens'"):
        Student("models/any", max_token=3)
