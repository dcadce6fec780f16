"""`scripts/run_full_workflow.py` on eight questions and the GPT-2 pair, and a second call of it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = "Grover search"
STEPS = {"max_steps": 2, "per_device_train_batch_size": 8, "logging_steps": 1}


@pytest.fixture(scope="module")
def workflow():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("run_full_workflow")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """The tiny recipe with eight questions and a 4-bit teacher that trains until it writes JSON."""
    folder = tmp_path_factory.mktemp("workflow")
    lines = (ROOT / "example-data" / "quantumbench.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    held_out = [row for row in rows if row["group"] == HELD_OUT][:3]
    trained = [row for row in rows if row["group"] == "spin one half"]
    trained += [row for row in rows if row["group"] == "entanglement and Bell inequalities"][:1]
    for row in trained:
        row["label"] = '{"answer":"2"}'
    inputs = folder / "questions.jsonl"
    inputs.write_text("".join(f"{json.dumps(row)}\n" for row in [*held_out, *trained]))
    values = yaml.safe_load((ROOT / "recipes" / "gpt2-tiny.yaml").read_text())
    values |= {"input_file": str(inputs), "output_dir": str(folder / "run")}
    values["teacher"] |= STEPS | {"max_steps": 40, "load_in_4bit": True, "learning_rate": 0.01}
    values["student"] |= STEPS
    values["compare"] = {"latency_samples": 1, "concurrency": 1}
    for role in ("teacher", "student"):
        values[role] |= {"eval_strategy": "no", "held_out_answers": 0}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(workflow, recipe_file):
    recipe = workflow.read_recipe(recipe_file)
    return recipe.folder, workflow.run_workflow(recipe)


def test_thirteen_plots_are_drawn_and_none_is_blank(run):
    files = list((run[0] / "plots").iterdir())
    documented = (ROOT / "docs" / "examples.md").read_text()
    assert len(files) == 13
    for file in files:
        assert f"| `{file.stem}` |" in documented
        picture = imread(file)
        assert min(picture.shape[:2]) > 200, file
        assert np.ptp(picture) > 0.5, file


def test_gold_answers_train_the_teacher_and_its_answers_the_student(run):
    gold, labels = (
        [json.loads(line) for line in (run[0] / name).read_text().splitlines()]
        for name in ("gold.jsonl", "labels.jsonl")
    )
    assert [turn["role"] for turn in gold[0]["messages"]] == ["system", "user", "assistant"]
    assert [row["messages"][-1]["content"] for row in gold] == ['{"answer":"2"}'] * 5
    assert all(len(row["messages"]) == 2 for row in labels)
    assert len((run[0] / "gold.heldout.jsonl").read_text().splitlines()) == 3
    manifest = json.loads((run[0] / "student" / "training_manifest.json").read_text())
    assert manifest["method"]["name"] == "soft"
    assert manifest["method"]["rows_with_targets"] == len(labels)


def test_table_and_page_have_the_figures_of_both(run):
    folder, table = run
    assert "| accuracy, held out | " in table
    assert table.count("n=3") == table.count("n=5") == 3
    assert (folder / "summary.md").read_text() == f"{table}\n"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 13
    cells = json.loads((folder / "comparison" / "comparison.json").read_text())["cells"]
    assert (cells[0]["title"], cells[0]["thinking"]) == ("teacher, prompt", False)
    assert [(cell["key"], cell["n"]) for cell in cells] == [
        ("teacher", 3), ("student_before", 3), ("student", 3),
    ]  # fmt: skip


def test_a_second_call_does_nothing_again(run, workflow, recipe_file, monkeypatch):
    for name in ("train", "evaluate", "compare"):
        monkeypatch.setattr(workflow.api, name, lambda *_, **__: pytest.fail("done again"))
    assert workflow.run_workflow(workflow.read_recipe(recipe_file)) == run[1]
    other = workflow.read_recipe(recipe_file, output_dir=str(run[0] / "plots"))
    with pytest.raises(workflow.OutputExistsError, match="not written by this script"):
        workflow.run_workflow(other)


@pytest.mark.parametrize("name", ["gpt2-tiny", "gpt2-large"])
def test_every_step_understands_the_recipe(name, workflow):
    recipe = workflow.read_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.teacher["model_name"].endswith(("gpt2-teacher", "gpt2-large"))


def test_values_of_a_recipe_can_be_changed_on_the_command_line(workflow, recipe_file):
    changes = ["teacher.max_steps=1", "dtype=bfloat16", "compare={concurrency: 2}"]
    recipe = workflow.read_recipe(recipe_file, changes=changes)
    assert (recipe.teacher["max_steps"], recipe.dtype) == (1, "bfloat16")
    assert recipe.compare == {"concurrency": 2}
    for change, message in {
        "teacher.max_steps": "expected KEY=VALUE",
        "dtype.name=float32": "dtype holds a value and no keys",
        "teacher.max_stepps=1": "max_stepps",
        "teacher.max_steps=[": "the value is not YAML",
    }.items():
        with pytest.raises(workflow.ConfigError, match=message):
            workflow.read_recipe(recipe_file, changes=[change])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": {}}, "unknown key 'teachers'"),
        ({"student": {}}, "student needs a mapping of settings with a model_name"),
        ({"dtype": "auto"}, "dtype is 'auto'; allowed are float32"),
        ({"compare": {"concurency": 1}}, "concurency"),
        ({"task": None}, "task is None; it must be a path"),
    ],
)
def test_a_wrong_recipe_is_refused_at_once(changes, message, workflow, recipe_file, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(recipe_file.read_text()) | changes))
    with pytest.raises(workflow.ConfigError, match=message):
        workflow.read_recipe(path)


def test_the_command_ends_with_one_line_on_a_missing_recipe():
    done = subprocess.run(
        [sys.executable, "scripts/run_full_workflow.py", "--config", "no.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: cannot read no.yaml: No such file or directory\n"
