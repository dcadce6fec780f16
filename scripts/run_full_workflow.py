"""Fine-tune a teacher on gold answers, distil a student from it, measure both, draw thirteen plots.

    python scripts/run_full_workflow.py                                      # the tiny GPT-2 pair
    python scripts/run_full_workflow.py --config recipes/gpt2-large.yaml     # GPT-2 Large and GPT-2

The teacher learns the gold answers of the training questions, with LoRA and under the task's
prompt. It then answers the questions itself, and the student learns its probabilities (soft labels)
without the prompt. Both, and the student before distillation, are asked every question. A second
call continues where the first one stopped.

The recipe names ``output_dir``, which then holds ``teacher/``, ``student/``, the two datasets, the
results, ``comparison/``, ``plots/``, ``report.html`` and ``summary.md``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from pair_plots import PARTS, Measured, plot_workflow, shown_number
from prompt_distillation import api
from prompt_distillation.cli.running import run_command
from prompt_distillation.config import split_settings
from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.comparison import COMPARISON_FILE, STUDENT_KEY, Comparison
from prompt_distillation.data.files import (
    atomic_writer,
    read_json,
    sibling,
    write_json,
    write_jsonl,
)
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.intervals import with_interval
from prompt_distillation.data.result_files import read_comparison, read_result
from prompt_distillation.data.results import Result
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.data.training_files import MANIFEST_FILE, read_history
from prompt_distillation.errors import ConfigError, OutputExistsError
from prompt_distillation.examples import find_example
from prompt_distillation.report.page import PageParts, build_page
from prompt_distillation.report.sentences import milliseconds, paired_sentence
from prompt_distillation.training.methods.sft_options import check_sft_options
from prompt_distillation.yaml_files import read_yaml_mapping

SEED = 0
"""Of the split: that of labelling's default seed."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CELLS = {"teacher": "teacher", "student_before": "student before", STUDENT_KEY: "student"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, as its YAML file says.

    Attributes:
        held_out: share of the topics that nothing is trained on.
        dtype: of the weights of a model that answers.
        teacher: settings of the teacher's training, as `api.train` takes them.
        labels: of the teacher's answers, as `api.label` takes them.
        student: of the student's training.
        compare: of `api.compare`.
    """

    task: str
    input_file: str
    output_dir: str
    held_out: float = 0.2
    chat_template_path: str | None = None
    engine: str = "auto"
    dtype: str = "float32"
    teacher: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    student: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.output_dir)

    @property
    def asking(self) -> dict[str, Any]:
        """How models are opened."""
        return {"engine": self.engine, "dtype": self.dtype}


def read_recipe(
    path: Path, *, output_dir: str | None = None, changes: Sequence[str] = ()
) -> Recipe:
    """Read a recipe.

    Args:
        path: its YAML file.
        output_dir: instead of the recipe's.
        changes: ``KEY=VALUE`` or ``SECTION.KEY=VALUE``, instead of the recipe's.

    Raises:
        ConfigError: it cannot be read, or a key is unknown, missing or of the wrong type.
    """
    values = read_yaml_mapping(find_example(path), error=ConfigError)
    for change in changes:
        set_value(values, change)
    known = [one.name for one in fields(Recipe)]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    if output_dir is not None:
        values["output_dir"] = output_dir
    for name in ("task", "input_file", "output_dir"):
        if not isinstance(values.get(name), str):
            raise ConfigError(f"{path}: {name} is {values.get(name)!r}; it must be a path")
    for name in ("teacher", "student"):
        if not isinstance(values.get(name), dict) or "model_name" not in values[name]:
            raise ConfigError(f"{path}: {name} needs a mapping of settings with a model_name")
    recipe = Recipe(**values)
    if recipe.dtype not in BYTES:
        raise ConfigError(f"{path}: dtype is {recipe.dtype!r}; allowed are {', '.join(BYTES)}")
    check_settings(recipe)
    return recipe


def set_value(values: dict[str, Any], change: str) -> None:
    """Change one value of a recipe, as ``--set`` says.

    Raises:
        ConfigError: it has no value, or the section has no keys.
    """
    names, equals, text = change.partition("=")
    *sections, key = names.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {change}: {section} holds a value and no keys")
        values = inner
    if not equals:
        raise ConfigError(f"--set {change}: expected KEY=VALUE, e.g. teacher.max_steps=10")
    try:
        values[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}: the value is not YAML") from error


def check_settings(recipe: Recipe) -> None:
    """See that each step understands its settings, before the first one takes its time.

    Raises:
        ConfigError: a setting is unknown or has a value that is not allowed.
    """
    for settings in (recipe.teacher, recipe.student):
        own, others = split_settings(TrainConfig, settings)
        TrainConfig.of(**own)
        check_sft_options(others)
    LabelConfig.of(**recipe.labels)
    CompareConfig.of(**recipe.compare)


def run_workflow(recipe: Recipe) -> str:
    """Do what is not done yet; returns the table of figures."""
    begin(recipe)
    step("gold answers as training rows", lambda: write_gold(recipe))
    step("training the teacher", lambda: train_teacher(recipe))
    step("the teacher's answers", lambda: label(recipe))
    step("training the student", lambda: train_student(recipe))
    results = step("asking every question", lambda: evaluate_all(recipe))
    comparison = step("comparing on the held-out questions", lambda: compare(recipe))
    return step("plots and report", lambda: write_report(recipe, results, comparison))


def step(title: str, work: Callable[[], Any]) -> Any:
    """Do one step, and say how long it took."""
    print(f"{title} ...", flush=True)
    started = time.monotonic()
    done = work()
    print(f"{title}: {time.monotonic() - started:.1f} s", flush=True)
    return done


def begin(recipe: Recipe) -> None:
    """See that the folder is new, or holds an earlier part of this very run."""
    path = recipe.folder / "recipe.json"
    if path.is_file():
        if read_json(path) != asdict(recipe):
            raise OutputExistsError(
                f"{recipe.folder} holds a run with other settings; choose another --output_dir, or "
                "remove it"
            )
    elif recipe.folder.exists() and any(recipe.folder.iterdir()):
        raise OutputExistsError(
            f"{recipe.folder} was not written by this script; choose another --output_dir"
        )
    else:
        recipe.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(recipe))


def write_gold(recipe: Recipe) -> None:
    """Write the gold answers as chat rows: question and prompt, and the answer in its one form."""
    task, path = api.load_task(recipe.task), gold_file(recipe)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for item in read_inputs(find_example(Path(recipe.input_file))):
        if item.gold is None:
            continue
        where = f"{recipe.input_file}, row {item.index + 1}"
        answer = {"role": "assistant", "content": task.require_answer(item.gold, where=where)}
        turns = [*task.conversation(item.text, with_prompt=True), answer]
        held_out = is_held_out(item.group, share=recipe.held_out, seed=SEED)
        rows[held_out].append({"messages": turns})
    write_jsonl(sibling(path, "heldout"), rows[True])
    write_jsonl(path, rows[False])


def gold_file(recipe: Recipe) -> Path:
    """Chat rows of the gold answers; those held out are beside it."""
    return recipe.folder / "gold.jsonl"


def labels_file(recipe: Recipe) -> Path:
    """Chat rows of the teacher's answers; its probabilities are beside it."""
    return recipe.folder / "labels.jsonl"


def train_teacher(recipe: Recipe) -> None:
    """Fine-tune the teacher on the gold answers, unless that is done."""
    train(recipe, gold_file(recipe), recipe.folder / "teacher", recipe.teacher)


def train_student(recipe: Recipe) -> None:
    """Train the student on the teacher's probabilities, unless that is done."""
    settings = {"method": "soft", "soft_targets": "tokens", **recipe.student}
    train(recipe, labels_file(recipe), recipe.folder / "student", settings)


def train(recipe: Recipe, rows: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """Train on rows; a run that was stopped continues from its last checkpoint."""
    if not (folder / MANIFEST_FILE).is_file():
        fixed = {"chat_template_path": recipe.chat_template_path, "report_to": "none"}
        api.train(rows, output_dir=folder, **(fixed | dict(settings)))


def label(recipe: Recipe) -> None:
    """Let the fine-tuned teacher answer, and keep the probabilities of its answers' tokens."""
    api.label(
        task=recipe.task,
        input_file=recipe.input_file,
        output_file=labels_file(recipe),
        model_name=str(recipe.folder / "teacher"),
        thinking=False,
        held_out=recipe.held_out,
        seed=SEED,
        **(recipe.asking | {"top_logprobs": 20} | dict(recipe.labels)),
    )


def evaluate_all(recipe: Recipe) -> dict[str, Result]:
    """Ask each model every question, those it was trained on too."""
    found = {}
    models = {
        "teacher": {"model": recipe.folder / "teacher", "with_prompt": True},
        "student_before": {
            "model": "none",
            "base_model": recipe.student["model_name"],
            "chat_template_path": recipe.chat_template_path,
        },
        STUDENT_KEY: {"model": recipe.folder / "student"},
    }
    for key, asked in models.items():
        path = recipe.folder / f"{key}.json"
        if not path.is_file():
            settings = {"max_tokens": recipe.labels.get("max_tokens")}
            api.evaluate(
                task=recipe.task, test_file=recipe.input_file, output_file=path, split="all",
                train_data_file=labels_file(recipe), **(recipe.asking | settings | asked),
            )  # fmt: skip
        found[key] = read_result(path)
    return found


def compare(recipe: Recipe) -> Comparison:
    """Measure accuracy, latency and throughput on the held-out questions."""
    folder = recipe.folder / "comparison"
    if not (folder / COMPARISON_FILE).is_file():
        settings = {
            "engine": recipe.engine,
            "teacher_dtype": recipe.dtype,
            "student_dtype": recipe.dtype,
            "student_chat_template_path": recipe.chat_template_path,
            "teacher_temperature": recipe.labels.get("temperature", 0),
            "teacher_max_tokens": recipe.labels.get("max_tokens"),
            "thinking": False,
            "score_labels": False,
            "cells": ",".join(CELLS),
        }
        api.compare(
            task=recipe.task,
            test_file=recipe.input_file,
            train_data_file=labels_file(recipe),
            teacher_model=str(recipe.folder / "teacher"),
            student_path=str(recipe.folder / "student"),
            base_model=recipe.student["model_name"],
            output_dir=folder,
            **(settings | dict(recipe.compare)),
        )
    return read_comparison(folder / COMPARISON_FILE)


def write_report(recipe: Recipe, results: Mapping[str, Result], comparison: Comparison) -> str:
    """Draw the plots, and write the page and the table."""
    models = measured(recipe, results, comparison)
    history = read_history(recipe.folder / "teacher")
    pictures = plot_workflow(history, models, recipe.folder / "plots")
    cells = {
        cell.title: read_result(recipe.folder / "comparison" / cell.result_file)
        for cell in comparison.cells
    }
    page = build_page(
        PageParts(
            results=cells, main=comparison.cells[-1].title, comparison=comparison,
            pictures=pictures,
        )
    )  # fmt: skip
    text = "\n".join(table(models, comparison))
    for name, content in (("report.html", page), ("summary.md", f"{text}\n")):
        with atomic_writer(recipe.folder / name) as file:
            file.write(content)
    return text


def measured(
    recipe: Recipe, results: Mapping[str, Result], comparison: Comparison
) -> list[Measured]:
    """The teacher, the student before distillation, and the student, with their sizes."""
    found = []
    for key, title in CELLS.items():
        cell = comparison.cell(key)
        assert cell is not None, "every cell was measured"
        role = "teacher" if key == "teacher" else "student"
        counts = read_json(recipe.folder / role / MANIFEST_FILE)["counts"]
        parameters = counts["total_parameters"]
        if key == "student_before" and counts["trainable_parameters"] < parameters:
            parameters -= counts["trainable_parameters"]
        held_out = frozenset(
            item.index
            for item in results[key].predictions
            if is_held_out(item.group, share=recipe.held_out, seed=SEED)
        )
        found.append(
            Measured(
                title=title, result=results[key], held_out=held_out, parameters=parameters,
                weight_bytes=parameters * BYTES[recipe.dtype],
                queries_per_second=cell.loaded.queries_per_second,
            )
        )  # fmt: skip
    return found


def table(models: Sequence[Measured], comparison: Comparison) -> list[str]:
    """The figures as a Markdown table, and what the difference of the two is worth."""
    cells = comparison.cells
    many = cells[0].loaded.concurrency
    teacher, student = models[0], models[-1]

    rows: list[tuple[str, Sequence[str]]] = [
        ("", list(CELLS.values())),
        ("---", ["---"] * len(CELLS)),
        *((f"accuracy, {part}", [_accuracy(m, part) for m in models]) for part in PARTS),
        ("answers in the right form", [f"{m.result.summary.parse_rate:.1%}" for m in models]),
        ("parameters", [f"{m.parameters:,}" for m in models]),
        ("memory of the weights", [f"{m.weight_bytes / 1e6:,.1f} MB" for m in models]),
        (
            f"questions per second, {many} at a time",
            [f"{m.queries_per_second:,.1f}" for m in models],
        ),
        ("one question alone, median", [milliseconds(cell.alone.p50) for cell in cells]),
        ("tokens per question", [f"{cell.tokens_per_query:,.0f}" for cell in cells]),
        ("held-out points per million parameters", [shown_number(m.efficiency) for m in models]),
    ]
    lines = [f"| {' | '.join([name, *shown])} |" for name, shown in rows]
    deltas = [f"{student.points(part) - teacher.points(part):+.1f}" for part in PARTS]
    lines += ["", f"Student minus teacher, in points: {deltas[0]} held out, {deltas[1]} trained on"]
    if comparison.student_against_teacher is not None:
        lines.append(paired_sentence(comparison.student_against_teacher, model="the student"))
    return lines


def _accuracy(model: Measured, part: str) -> str:
    summary = model.part(part).summary
    return f"{with_interval(summary.accuracy, summary.accuracy_interval)}, n={summary.evaluated}"


def main(argv: Sequence[str]) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=Path("recipes/gpt2-tiny.yaml"),
        help="recipe of the run (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output_dir", help="folder of the run, instead of the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
        help="a value of the recipe to change, e.g. teacher.max_steps=10; may be repeated",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    recipe = read_recipe(
        arguments.config, output_dir=arguments.output_dir, changes=arguments.changes
    )
    print(f"\n{run_workflow(recipe)}\n")
    print(f"report: {recipe.folder / 'report.html'}, plots: {recipe.folder / 'plots'}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:], goes_on=True))
