"""The package away from its checkout: built as a wheel, installed elsewhere, run in a folder."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines.faulty_proxy import chat_completion, faulty_proxy

ROOT = Path(__file__).parents[1]
# What a wheel is made of.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "tasks", "recipes")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in SOURCES:  # a copy: building writes beside its sources
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, checkout / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    shutil.rmtree(checkout)
    return folder / "site"


def run(site, folder, *argv):
    """Run the installed command in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", "prompt_distillation", *map(str, argv)],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_carries_the_example_task_and_recipes(site, tmp_path):
    code = (
        "import prompt_distillation as pd; from pathlib import Path;"
        "task = pd.load_task('tasks/language'); print(pd.__file__, len(task.labels));"
        "from prompt_distillation.examples import find_example;"
        "print(find_example(Path('recipes/h100-train.yaml')).is_file())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.stdout.split() == [str(site / "prompt_distillation" / "__init__.py"), "13", "True"]


async def sorter(path: str, body: bytes) -> tuple[int, bytes]:
    """A teacher that knows a prompt nobody has trained a tiny model for."""
    if path.endswith("/models"):
        return 200, b'{"object": "list", "data": [{"id": "teacher", "object": "model"}]}'
    label = "billing" if b"price" in body or b"refund" in body else "other"
    return 200, chat_completion(f"Let me see.\n</think>\n\nFinal Answer: {label}")


@pytest.mark.slow
async def test_a_new_task_goes_through_all_steps(site, tmp_path, tiny_models):
    run(site, tmp_path, "init", "mine", "--kind", "classification")
    mine = tmp_path / "mine"
    async with faulty_proxy(sorter) as server:
        await asyncio.to_thread(
            run, site, mine, "create-data", "--config", "label.yaml",
            "--engine", "server", "--server_url", server.url, "--model_name", "teacher",
        )  # fmt: skip
    run(
        site, mine, "train", "--config", "train.yaml", "--model_name", tiny_models.student,
        "--max_steps", "2", "--held_out_answers", "0",
    )  # fmt: skip
    shown = run(site, mine, "evaluate", "--config", "evaluate.yaml", "--engine", "transformers")

    assert "CONFUSION MATRIX" in shown
    assert (mine / "evaluation_results.json").is_file()
    assert (mine / "models" / "mine" / "adapter_model.safetensors").is_file()
