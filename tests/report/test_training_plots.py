import json

import pytest

from prompt_distillation.data.training_files import read_history
from prompt_distillation.errors import InputError
from prompt_distillation.report.training_plots import (
    loss_by_epoch,
    plot_training,
    smoothed,
    training_figures,
)

HISTORY = [
    {"step": 0, "epoch": 0.0, "eval_loss": 3.0, "eval_accuracy": 0.1},
    *(
        {
            "step": step,
            "epoch": step / 5,
            "loss": 3.0 / step,
            "learning_rate": 1e-4,
            "grad_norm": 1.0,
            "tokens_per_second": 100.0,
            "rows_per_second": 2.0,
            "peak_memory_gib": 0.5 + step / 100,
        }
        for step in range(1, 11)
    ),
    {"step": 10, "epoch": 2.0, "eval_loss": 0.4, "eval_accuracy": 0.9},
    {"step": 10, "epoch": 2.0, "train_loss": 0.9},
]


def test_seven_plots_are_drawn(tmp_path):
    (tmp_path / "log_history.json").write_text(json.dumps(HISTORY))
    files = plot_training(read_history(tmp_path), tmp_path / "plots")
    assert sorted(file.stem for file in files) == [
        "gradient_norms",
        "learning_rate",
        "training_dashboard",
        "training_loss",
        "training_loss_by_epoch",
        "training_speed",
        "training_summary",
    ]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_last_step_of_an_epoch_belongs_to_it():
    epochs, losses = loss_by_epoch(HISTORY)
    assert epochs == [1, 2]
    assert losses[0] == pytest.approx(sum(3 / step for step in range(1, 6)) / 5)


def test_the_smoothed_loss_does_not_lag():
    falling = [100.0 - step for step in range(100)]
    assert smoothed(falling) == pytest.approx(falling)
    assert smoothed([0.0, 1.0] * 40)[40] == pytest.approx(0.4)


def test_the_summary_holds_first_last_and_best():
    rows = training_figures(HISTORY)
    assert rows["first training loss"] == "3.0000"
    assert rows["held-out loss after"] == "0.4000"
    assert rows["held-out answers as in the data"] == "90.0%"
    assert rows["peak memory"] == "0.60 GiB"


def test_a_run_without_a_loss_has_no_plots(tmp_path):
    assert plot_training([], tmp_path / "plots") == []
    assert plot_training(read_history(tmp_path), tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_a_log_that_is_not_one_is_refused(tmp_path):
    for content in ("{", "{}", "[1]", '[{"loss": 1.0}]'):
        (tmp_path / "log_history.json").write_text(content)
        with pytest.raises(InputError, match=r"log_history\.json: not"):
            read_history(tmp_path)
