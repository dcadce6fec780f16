"""Soft labels from the teacher to the student, with the example pair."""

from pathlib import Path

import pytest

from prompt_distillation import label, train
from prompt_distillation.data.answer_logprobs import open_logprobs
from prompt_distillation.data.files import read_json, read_jsonl

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "example-models"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return label(
        task=ROOT / "tasks" / "language",
        input_file=ROOT / "example-data" / "multilingual.txt",
        output_file=tmp_path_factory.mktemp("soft") / "lang.jsonl",
        model_name=str(MODELS / "teacher"),
        engine="transformers",
        temperature=0.7,
        num_votes=2,
        max_tokens=256,
        max_samples=40,
        top_logprobs=20,
    )


def test_the_teacher_is_most_sure_of_what_it_wrote(dataset):
    file = open_logprobs(dataset.dataset.with_suffix(".logprobs.parquet"))
    assert len(file.labels) == 13
    answered = [row for _, row in read_jsonl(dataset.dataset.with_suffix(".records.jsonl"))]
    rows = list(file.rows())
    assert len(rows) == sum(sum(row["votes"].values()) for row in answered if row["answer"])
    likeliest = [max(zip(row.labels, file.labels, strict=True))[1] for row in rows]
    agree = sum(label == row.answer for label, row in zip(likeliest, rows, strict=True))
    assert agree >= 0.8 * len(rows)
    for row in rows:
        assert sum(row.labels) == pytest.approx(1.0, abs=1e-5)
        assert len(row.ids) == 20 * len(row.written) == 20 * len(row.mass)
        assert all(0 < mass <= 1.0001 for mass in row.mass)


@pytest.mark.parametrize(("targets", "known"), [("auto", 2), ("tokens", 1)])
def test_a_student_learns_from_them(dataset, tmp_path, targets, known):
    run = train(
        dataset, output_dir=tmp_path / "run", model_name=str(MODELS / "student"), method="soft",
        soft_targets=targets, max_steps=3, learning_rate=1e-3, report_to="none",
        held_out_answers=0, gradient_checkpointing=False,
    )  # fmt: skip
    method = read_json(run.output_dir / "training_manifest.json")["method"]
    assert method["rows_with_targets"] == run.rows
    # Of "Final Answer: de" only the end of the turn is a token that the student writes.
    assert method["tokens_with_targets"] == known * run.rows
    assert method["mean_mass"] > 0.98
