"""Recipes are read as the command in their first lines reads them."""

import re
from pathlib import Path

import pytest

from prompt_distillation.cli.options import parse_options, parse_options_with_extra
from prompt_distillation.config import flat
from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.config.generate_config import GenerateConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.methods.sft_options import check_sft_options, sft_values

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CONFIGS = {
    "scripts/generate_inputs.py": GenerateConfig, "create_data.py": LabelConfig,
    "evaluate.py": EvaluateConfig, "scripts/compare.py": CompareConfig,
}  # fmt: skip


def script_of(recipe):
    line = rf"^#   .*?([\w/]+\.py) --config recipes/{recipe.name}"
    found = re.search(line, recipe.read_text(), re.MULTILINE)
    return found[1] if found else "create_data.py"  # h100x8: its script passes the recipe on


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_understood_by_the_command_that_it_names(recipe):
    script, arguments = script_of(recipe), ["--config", str(recipe)]
    if script == "scripts/run_full_workflow.py":
        return  # tests/scripts/test_full_workflow.py
    if script == "train_sft_trl.py":
        config, extra = parse_options_with_extra(TrainConfig, arguments, description="")
        check_sft_options(extra)
    else:
        config = parse_options(CONFIGS[script], arguments, description="")
    assert flat(config)


def test_the_recipe_for_beethoven_trains_with_the_numbers_of_the_reference():
    recipe = str(ROOT / "recipes" / "beethoven-train.yaml")
    config, extra = parse_options_with_extra(TrainConfig, ["--config", recipe], description="")
    values = sft_values(config, check_sft_options(extra), has_held_out=True)
    assert config.model.model_name == "Qwen/Qwen3-4B-Instruct-2507"
    assert (config.lora.lora_rank, config.lora.lora_alpha) == (32, 64)
    assert (values["learning_rate"], values["max_steps"]) == (5e-5, 1000)
    assert values["save_steps"] == values["eval_steps"] == 100
    assert values["load_best_model_at_end"]
    assert values["metric_for_best_model"] == "eval_loss"
    assert config.early_stopping_patience == 3
