"""Choosing what to label: inputs that the student is unsure of against as many random ones.

    python benchmarks/improving.py --task language --seeds 12
    python benchmarks/improving.py --task card --seeds 6

Each seed holds out other groups, and draws other inputs to start from: a student is trained on
``--start`` labelled rows. Then `improve` gives it ``--rounds`` rounds for each way of choosing,
from all inputs that are left: the same student, pool, number of inputs that the teacher labels, old
rows and training steps. The way ``none`` labels nothing and trains as many steps on the old rows.
The teacher answers all inputs once, before; its answers are read from there. Of the task card,
whose tiny teacher is often wrong, they are the gold answers. Differences from random inputs are
paired by seed, with a 95 % interval of Student's t over the seeds. What was measured already is
kept in the output file and not measured again.
"""

import argparse
import random
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from prompt_distillation.api import evaluate, label, train
from prompt_distillation.config.improve_config import ImproveConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import read_records
from prompt_distillation.data.files import read_json, sibling, write_json, write_jsonl
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.result_files import read_result
from prompt_distillation.data.results import Result
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.engines import Completion, Engine, Request
from prompt_distillation.improving import improve
from prompt_distillation.labelling import pipeline
from prompt_distillation.tasks import END_OF_THINKING

HELD_OUT = 0.4
"""Share of the groups."""
WAYS = ("random", "none", "uncertain")
ABOUT = ("rows", "start", "held_out")
"""What is known of a seed beside its ways."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task, its models, how its students train, and whether the teacher's answers are gold."""

    task: str
    inputs: Path
    teacher: str
    student: str
    training: Mapping[str, Any]
    gold: bool = False


SETTINGS = {
    "language": Setting(
        task="tasks/language",
        inputs=Path("example-data/multilingual.txt"),
        teacher="example-models/teacher",
        student="example-models/student",
        training={"learning_rate": 1e-3},
    ),
    "card": Setting(
        task="tasks/card",
        inputs=Path("example-data/card.jsonl"),
        teacher="example-models/radio-teacher",
        student="example-models/radio-student",
        training={"learning_rate": 1e-3, "lora_alpha": 16},
        gold=True,
    ),
}
TRAINING: Mapping[str, Any] = {
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "max_length": 512,
    "gradient_checkpointing": False, "report_to": "none", "held_out_answers": 0,
    "eval_file": "none", "save_strategy": "no",
}  # fmt: skip
"""Of every training run; the others are in `Setting`."""


class Replay:
    """A teacher whose answers are known: its completion of each input's text."""

    name, concurrency = "replay", 256

    def __init__(self, completions: Mapping[str, Completion]) -> None:
        self._completions = completions

    @classmethod
    def of_dataset(cls, dataset: Path) -> "Replay":
        """A teacher that answers as it did when it labelled a dataset."""
        return cls({
            record["text"]: _completion(
                record["outputs"][-1]["text"], tokens=record["outputs"][-1]["completion_tokens"]
            )
            for record in read_records(sibling(dataset, "records"))
        })  # fmt: skip

    @classmethod
    def of_gold(cls, inputs: Path) -> "Replay":
        """A teacher that is always right, and writes nothing else."""
        return cls({
            item.text: _completion(f"{END_OF_THINKING}\n\n{item.gold}", tokens=0)
            for item in read_inputs(inputs)
        })  # fmt: skip

    async def complete(self, request: Request) -> Completion:
        """The known answer to the request's last turn."""
        return self._completions[request.messages[-1]["content"]]

    async def aclose(self) -> None:
        """There is nothing to free."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        """It is always open."""
        yield self


def _completion(text: str, *, tokens: int) -> Completion:
    return Completion(
        text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=tokens, seconds=0.0
    )


def main() -> None:
    """Measure what the output does not hold yet; print the table."""
    arguments = _arguments()
    names = ("start", "pool", "tested", "start_steps", "rounds", "rows", "steps", "replay")
    settings = {name: getattr(arguments, name) for name in names}
    output: Path = arguments.output_file
    tasks: dict[str, Any] = read_json(output) if output.exists() else {}
    done = tasks.setdefault(arguments.task, {"settings": settings, "seeds": {}})
    if done["settings"] != settings:
        raise SystemExit(f"{output} holds other settings: {done['settings']}")
    setting, folder = SETTINGS[arguments.task], arguments.folder / arguments.task
    teacher = _teacher(setting, folder / "all.jsonl", arguments.engine)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        measured = done["seeds"].setdefault(str(seed), {})
        if missing := [way for way in arguments.ways.split(",") if way not in measured]:
            measured |= _measure(seed, missing, folder / f"seed-{seed}", arguments, teacher)
            write_json(output, tasks)
    metrics = ("accuracy", "f1") if arguments.task == "card" else ("accuracy",)
    for metric in metrics:
        print("\n".join(table(list(done["seeds"].values()), metric)), end="\n\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=SETTINGS, default="language")
    parser.add_argument("--folder", type=Path, default=Path("build/improving"))
    parser.add_argument("--output_file", type=Path, default=Path("build/improving/improving.json"))
    parser.add_argument("--engine", default="transformers", help="of the teacher")
    parser.add_argument("--seeds", type=int, default=12, help="how many")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--ways", default=",".join(WAYS), help="none, or a value of --select")
    parser.add_argument(
        "--start", type=int, default=40, help="labelled rows of the student to start from"
    )
    parser.add_argument("--pool", type=int, default=600, help="inputs to choose from")
    parser.add_argument("--tested", type=int, default=250, help="held-out inputs")
    parser.add_argument("--start_steps", type=int, default=240, help="of its training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20, help="inputs that a round labels")
    parser.add_argument("--steps", type=int, default=40, help="of the training of a round")
    parser.add_argument("--replay", type=float, default=1.0)
    return parser.parse_args()


def _teacher(setting: Setting, answered: Path, engine: str) -> Replay:
    """The teacher's answers to all inputs, asked once; or gold answers."""
    if setting.gold:
        return Replay.of_gold(setting.inputs)
    label(
        task=setting.task, input_file=setting.inputs, output_file=answered,
        model_name=setting.teacher, max_tokens=256, engine=engine,
    )  # fmt: skip
    return Replay.of_dataset(answered)


def _measure(
    seed: int, ways: Sequence[str], folder: Path, arguments: argparse.Namespace, teacher: Replay
) -> dict[str, Any]:
    """Train the student to start from, and give it the rounds for each way of choosing."""
    setting = SETTINGS[arguments.task]
    shutil.rmtree(folder, ignore_errors=True)
    start, pool = _drawn(seed, folder, arguments)
    dataset = pipeline.label(
        LabelConfig.of(
            task=setting.task, input_file=start, output_file=folder / "start.jsonl",
            model_name=setting.teacher, max_tokens=256, held_out=HELD_OUT,
        ),
        open_teacher=teacher.open,
    ).dataset  # fmt: skip
    student = train(
        dataset, output_dir=folder / "student", model_name=setting.student, seed=seed,
        max_steps=arguments.start_steps, **TRAINING, **setting.training,
    )  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"max_steps: {arguments.steps}\n")
    measured: dict[str, Any] = {"rows": student.rows}
    for way in ways:
        started = time.monotonic()
        if way == "none":
            measured[way] = _trained_on_old_rows(seed, folder, arguments, dataset)
        else:
            made = improve(
                ImproveConfig.of(
                    student_path=folder / "student", pool=pool, select=way, seed=seed,
                    max_rounds=arguments.rounds, patience=arguments.rounds,
                    inputs_per_round=arguments.rows, replay=arguments.replay,
                    engine="transformers", training_recipe=recipe, output_dir=folder / way,
                ),
                open_teacher=teacher.open,
            )  # fmt: skip
            scores = _scores(folder / way)
            measured |= {"start": scores[0], "held_out": made.held_out}
            measured[way] = {
                "scores": scores[1:],
                "new_rows": sum(one.new_rows for one in made.rounds),
                "teacher_tokens": sum(one.teacher_tokens for one in made.rounds),
            }
        measured[way]["seconds"] = round(time.monotonic() - started, 1)
    shutil.rmtree(folder)
    return measured


def _trained_on_old_rows(
    seed: int, folder: Path, arguments: argparse.Namespace, dataset: Path
) -> dict[str, Any]:
    """As many rounds of training, on the rows that there are."""
    setting, student = SETTINGS[arguments.task], folder / "student"
    for number in range(1, arguments.rounds + 1):
        student = train(
            dataset, output_dir=folder / f"old-{number}", model_name=setting.student,
            adapter_path=student, seed=seed, max_steps=arguments.steps,
            **TRAINING, **setting.training,
        ).output_dir  # fmt: skip
    result = evaluate(
        student, task=setting.task, test_file=sibling(dataset, "heldout"), engine="transformers",
        train_data_file=dataset,
    )  # fmt: skip
    return {"scores": [_score(result)], "new_rows": 0, "teacher_tokens": 0}


def _score(result: Result) -> dict[str, float]:
    """Accuracy against gold; for JSON also the F1 of the values."""
    assert result.summary.accuracy is not None
    fields = result.field_scores
    return {"accuracy": result.summary.accuracy} | ({"f1": fields.f1} if fields else {})


def _scores(folder: Path) -> list[dict[str, float]]:
    """After each round of a run, the student to begin with first."""
    count = len(list(folder.glob("round-*/evaluation.json")))
    files = (folder / f"round-{number}" / "evaluation.json" for number in range(count))
    return [_score(read_result(file)) for file in files]


def _drawn(seed: int, folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Inputs to start from, the held-out ones with them, and the pool: others for each seed."""
    # Another name for a group is another hash, so another side of the split.
    named = read_inputs(SETTINGS[arguments.task].inputs)
    inputs = [replace(item, group=f"{seed}-{item.group}") for item in named]
    random.Random(seed).shuffle(inputs)
    held_out = [one for one in inputs if is_held_out(one.group, share=HELD_OUT, seed=0)]
    others = [one for one in inputs if not is_held_out(one.group, share=HELD_OUT, seed=0)]
    start, pool = folder / "inputs.jsonl", folder / "pool.jsonl"
    write_jsonl(start, map(_row, [*others[: arguments.start], *held_out[: arguments.tested]]))
    write_jsonl(pool, map(_row, others[arguments.start :][: arguments.pool]))
    return start, pool


def _row(item: Input) -> dict[str, Any]:
    return {"text": item.text, "group": item.group, "label": item.gold}


def table(seeds: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The table, in Markdown: seeds that have a way, against random inputs on the same seeds."""
    held_out, rows = (np.mean([one[key] for one in seeds]) for key in ("held_out", "rows"))
    start = np.mean([one["start"][metric] for one in seeds])
    lines = [
        f"{len(seeds)} seeds; on average {rows:.0f} rows to start from, {held_out:.0f} held-out "
        f"inputs; {metric} of the student to start from {start:.1%}",
        "",
        f"| `--select` | {metric} after each round | difference from random, points (95 %) | "
        "labelled | teacher tokens |",
        "|---|---|---|---|---|",
    ]
    for way in dict.fromkeys(key for one in seeds for key in one if key not in ABOUT):
        lines.append(f"| {way} | {_row_of(way, [one for one in seeds if way in one], metric)} |")
    return lines


def _row_of(way: str, seeds: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The cells of one way of choosing."""
    scores = np.array([[score[metric] for score in one[way]["scores"]] for one in seeds])
    random_ones = np.array([one["random"]["scores"][-1][metric] for one in seeds])
    labelled, tokens = (
        np.mean([one[way][key] for one in seeds]) for key in ("new_rows", "teacher_tokens")
    )
    gain = "-" if way == "random" else mean_with_interval(100 * (scores[:, -1] - random_ones))
    shown = ", ".join(f"{score:.1%}" for score in scores.mean(axis=0))
    return f"{shown} | {gain} | {labelled:.0f} | {tokens:.0f}"


def mean_with_interval(gains: "np.ndarray[Any, Any]") -> str:
    """A mean over seeds, with the 95 % interval of Student's t where there are two or more.

    >>> mean_with_interval(np.array([1.0, 2.0, 3.0]))
    '+2.00 (-0.48 to +4.48)'
    """
    if len(gains) < 2:
        return f"{gains.mean():+.2f}"
    spread = gains.std(ddof=1) / len(gains) ** 0.5 * student_t.ppf(0.975, len(gains) - 1)
    return f"{gains.mean():+.2f} ({gains.mean() - spread:+.2f} to {gains.mean() + spread:+.2f})"


if __name__ == "__main__":
    main()
