import subprocess
import sys

import pytest

from prompt_distillation.cli.init import INPUTS, write_project
from prompt_distillation.config import build_config
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.errors import ConfigError, OutputExistsError
from prompt_distillation.tasks import load_task
from prompt_distillation.yaml_files import read_yaml_mapping

RECIPES = {"label": LabelConfig, "train": TrainConfig, "evaluate": EvaluateConfig}


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_written_is_a_task_with_inputs_and_recipes(tmp_path, kind):
    folder = tmp_path / "my-task"
    write_project(folder, kind=kind)

    task = load_task(folder)
    assert (task.name, task.kind) == ("my-task", kind)
    inputs = list(read_inputs(folder / INPUTS[kind]))
    assert len(inputs) >= 20
    for item in inputs:
        if item.gold is not None:
            task.require_answer(item.gold, where="inputs")
    for name, config_type in RECIPES.items():
        recipe = read_yaml_mapping(folder / f"{name}.yaml", error=ConfigError)
        build_config(config_type, recipe)


def test_a_folder_of_somebody_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not empty"):
        write_project(tmp_path, kind="text")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_takes_the_folder_without_a_flag(tmp_path):
    command = [sys.executable, "-m", "prompt_distillation", "init"]
    done = subprocess.run(
        [*command, "mine"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Wrote mine:" in done.stdout
    assert (tmp_path / "mine" / "task.yaml").is_file()

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
