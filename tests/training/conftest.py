"""Fixtures shared by the tests of training: a tiny student and rows for it."""

from pathlib import Path

import pytest
from training.tiny_student import build_tokenizer, save_student, write_rows


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def student(tmp_path_factory) -> Path:
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def train_file(tmp_path) -> Path:
    """48 rows, with 12 held out beside them."""
    write_rows(tmp_path / "rows.heldout.jsonl", 12)
    return write_rows(tmp_path / "rows.jsonl", 48)
