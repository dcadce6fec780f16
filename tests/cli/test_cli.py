import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation import __version__
from prompt_distillation.cli.chat import ChatConfig
from prompt_distillation.cli.doctor import DoctorConfig
from prompt_distillation.cli.init import InitConfig
from prompt_distillation.cli.main import COMMANDS
from prompt_distillation.cli.report import ReportConfig
from prompt_distillation.cli.review_labels import ReviewConfig
from prompt_distillation.cli.serve import ServeConfig
from prompt_distillation.config import settings_of
from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.config.generate_config import GenerateConfig
from prompt_distillation.config.improve_config import ImproveConfig
from prompt_distillation.config.inspect_config import InspectConfig
from prompt_distillation.config.judge_config import JudgeConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.config.probe_config import ProbeConfig
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.export import ExportConfig

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "vllm",
    "trl",
    "transformers",
    "peft",
    "datasets",
    "matplotlib",
    "sklearn",
    "wandb",
)


def run_cli(*argv):
    return subprocess.run(
        [sys.executable, "-m", "prompt_distillation", *argv],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


CONFIGS = {
    "create-data": LabelConfig, "train": TrainConfig, "evaluate": EvaluateConfig,
    "compare": CompareConfig, "report": ReportConfig, "doctor": DoctorConfig, "init": InitConfig,
    "review-labels": ReviewConfig, "export": ExportConfig, "generate-inputs": GenerateConfig,
    "inspect-data": InspectConfig, "judge": JudgeConfig, "chat": ChatConfig,
    "serve": ServeConfig, "probe": ProbeConfig, "improve": ImproveConfig,
}  # fmt: skip


def test_no_command_shows_them_all_and_is_an_error():
    done = run_cli()
    assert done.returncode == 2
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_no_error(flag):
    done = run_cli(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: prompt-distillation COMMAND")


def test_version():
    assert run_cli("--version").stdout == f"prompt-distillation {__version__}\n"


def test_an_unknown_command():
    done = run_cli("distil")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: unknown command 'distil'; known are init, generate-inputs"
    )


def test_the_installed_script_is_the_same():
    script = Path(sys.executable).with_name("prompt-distillation")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_that_is_wrong_is_one_line_and_code_2(name):
    done = run_cli(name, "--config", "absent.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: no such --config file: absent.yaml (recipes/ has some to start from)"
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_flag_with_its_default_and_loads_nothing_heavy(name):
    code = (
        "import sys, json\n"
        "from prompt_distillation.cli.main import main\n"
        "try:\n"
        f"    main([{name!r}, '--help'])\n"
        "except SystemExit as end:\n"
        "    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stderr.splitlines()[-1])
    assert exit_code == 0
    assert set(HEAVY).isdisjoint(modules)
    assert done.stdout.startswith(f"usage: prompt-distillation {name} ")

    for setting in settings_of(CONFIGS[name]):
        entry = re.search(
            rf"^  --{setting.name} .*?(?=^  -|\Z)", done.stdout, re.DOTALL | re.MULTILINE
        )
        assert entry, f"--{setting.name} is not in the help"
        assert "(default:" in entry[0]


SCRIPTS = {"create_data.py": "create-data", "train_sft_trl.py": "train", "evaluate.py": "evaluate"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_root_scripts_are_the_same_commands(script):
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: {script} ")
    theirs = set(re.findall(r"--[a-z_]+", done.stdout))
    assert theirs == set(re.findall(r"--[a-z_]+", run_cli(SCRIPTS[script], "--help").stdout))


@pytest.mark.parametrize("script", [*SCRIPTS, "scripts/compare.py"])
def test_without_the_environment_a_script_says_how_to_get_it(script):
    # -S: as a Python that has none of the packages.
    done = subprocess.run(
        [sys.executable, "-S", "-E", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: prompt_distillation is not installed for ")
    assert "source .venv/bin/activate" in done.stderr
    assert done.stderr.count("\n") == 1
