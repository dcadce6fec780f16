"""Whole runs with expert adapters on activations and folded in: one curve, one student."""

import json

import pytest
import torch
from peft.tuners import lora
from rich.console import Console
from transformers import AutoModelForCausalLM

from prompt_distillation.checkpoints import merge_adapter
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.lora.expert_lora import ParamWrapper
from prompt_distillation.training.methods.sft import AnswerTrainer
from prompt_distillation.training.run import train

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def wrappers(monkeypatch):
    """Types of the experts' wrappers in each run's model."""
    seen = []
    plain_train = AnswerTrainer.train

    def spied(trainer, **options):
        modules = trainer.model.modules()
        seen.append({type(module) for module in modules if isinstance(module, lora.ParamWrapper)})
        return plain_train(trainer, **options)

    monkeypatch.setattr(AnswerTrainer, "train", spied)
    return seen


@pytest.mark.parametrize("filled", [True, False], ids=["end to end", "padded"])
def test_both_ways_train_the_same_student(student, train_file, tmp_path, wrappers, filled):
    curves, students = [], []
    for way in ("auto", "folded"):
        config = TrainConfig.of(
            train_file=train_file,
            model_name=str(student),
            output_dir=tmp_path / way,
            expert_lora=way,
            fill_micro_batch=filled,
            max_length=256,
            learning_rate=2e-3,
            held_out_answers=4,
            report_to="none",
        )
        result = train(config, console=Console(quiet=True))
        history = json.loads((config.output_dir / "log_history.json").read_text())
        curves.append([entry["loss"] for entry in history if "loss" in entry])
        curves[-1] += [entry["eval_loss"] for entry in history if "eval_loss" in entry]
        assert result.held_out_accuracy is not None
        merged = merge_adapter(str(student), config.output_dir, tmp_path / f"{way}-merged")
        model = AutoModelForCausalLM.from_pretrained(merged).eval()
        students.append(model(input_ids=IDS).logits)
    assert wrappers == [{ParamWrapper}, {lora.ParamWrapper}]
    assert len(curves[0]) > 6
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    torch.testing.assert_close(*students, atol=2e-3, rtol=1e-2)
