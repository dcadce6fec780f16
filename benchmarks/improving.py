"""Choosing what to label: inputs that the student is unsure of against as many random ones.

    python benchmarks/improving.py --seeds 12

Each seed holds out other groups, and draws other inputs to start from: a student is trained on
``--start`` labelled rows. Then `improve` gives it one round for each way of choosing, from all
inputs that are left: the same student, pool, number of inputs that the teacher labels, old rows and
training steps. The teacher answers all inputs once, before; its answers are read from there.
Differences from random inputs are paired by seed, with a 95 % interval of Student's t over the
seeds. What was measured already is kept in the output file and not measured again.
"""

import argparse
import random
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from prompt_distillation.api import label, train
from prompt_distillation.config.improve_config import ImproveConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import read_records
from prompt_distillation.data.files import read_json, sibling, write_json, write_jsonl
from prompt_distillation.data.improvement import Improvement
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.engines import Completion, Engine, Request
from prompt_distillation.improving import improve
from prompt_distillation.labelling import pipeline

TASK, INPUTS = "tasks/language", Path("example-data/multilingual.txt")
TEACHER, STUDENT = "example-models/teacher", "example-models/student"
HELD_OUT = 0.4
"""Share of the groups."""
WAYS = ("random", "uncertain", "similar")


class Replay:
    """A teacher that answers as it did before."""

    name, concurrency = "replay", 256

    def __init__(self, dataset: Path) -> None:
        self._outputs = {
            record["text"]: (record["outputs"][-1], record["prompt_tokens"])
            for record in read_records(sibling(dataset, "records"))
        }

    async def complete(self, request: Request) -> Completion:
        """The stored answer to the request's last turn."""
        output, prompt_tokens = self._outputs[request.messages[-1]["content"]]
        return Completion(
            text=output["text"],
            finish_reason="length" if output["finish_reason"] == "length" else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=output["completion_tokens"],
            seconds=output["seconds"],
        )

    async def aclose(self) -> None:
        """There is nothing to free."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        """It is always open."""
        yield self


def main() -> None:
    """Measure what the output does not hold yet; print the table."""
    arguments = _arguments()
    output: Path = arguments.output_file
    settings = {
        name: getattr(arguments, name)
        for name in ("start", "start_steps", "rows", "steps", "replay")
    }
    done: dict[str, Any] = read_json(output) if output.exists() else {}
    if done and done["settings"] != settings:
        raise SystemExit(f"{output} holds other settings: {done['settings']}")
    done = done or {"settings": settings, "seeds": {}}
    answered = arguments.folder / "all.jsonl"
    label(
        task=TASK, input_file=INPUTS, output_file=answered, model_name=TEACHER, max_tokens=256,
        engine=arguments.engine,
    )  # fmt: skip
    teacher = Replay(answered)
    for seed in range(arguments.seeds):
        if str(seed) not in done["seeds"]:
            done["seeds"][str(seed)] = _measure(seed, arguments, teacher)
            write_json(output, done)
    print("\n".join(table(list(done["seeds"].values()))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/improving"))
    parser.add_argument("--output_file", type=Path, default=Path("build/improving/improving.json"))
    parser.add_argument("--engine", default="transformers", help="of the teacher")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument(
        "--start", type=int, default=40, help="labelled rows of the student to start from"
    )
    parser.add_argument("--start_steps", type=int, default=240, help="of its training")
    parser.add_argument("--rows", type=int, default=40, help="inputs that a round labels")
    parser.add_argument("--steps", type=int, default=80, help="of the training of a round")
    parser.add_argument("--replay", type=float, default=1.0)
    return parser.parse_args()


def _measure(seed: int, arguments: argparse.Namespace, teacher: Replay) -> dict[str, Any]:
    """Train the student to start from, and give it one round for each way of choosing."""
    folder = arguments.folder / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    start, pool = _drawn(seed, folder, arguments)
    dataset = pipeline.label(
        LabelConfig.of(
            task=TASK, input_file=start, output_file=folder / "start.jsonl", model_name=TEACHER,
            max_tokens=256, held_out=HELD_OUT,
        ),
        open_teacher=teacher.open,
    )  # fmt: skip
    student = train(
        dataset, output_dir=folder / "student", model_name=STUDENT, seed=seed,
        max_steps=arguments.start_steps, learning_rate=1e-3, per_device_train_batch_size=16,
        gradient_accumulation_steps=1, max_length=512, gradient_checkpointing=False,
        report_to="none", held_out_answers=0, eval_file="none", save_strategy="no",
    )  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"max_steps: {arguments.steps}\n")
    measured: dict[str, Any] = {"rows": student.rows}
    for way in WAYS:
        started = time.monotonic()
        made = improve(
            ImproveConfig.of(
                student_path=folder / "student", pool=pool, select=way, max_rounds=1, seed=seed,
                inputs_per_round=arguments.rows, replay=arguments.replay, engine="transformers",
                training_recipe=recipe, output_dir=folder / way,
            ),
            open_teacher=teacher.open,
        )  # fmt: skip
        measured |= {"start": made.rounds[0].score.value, "held_out": made.held_out}
        measured[way] = _figures(made, seconds=time.monotonic() - started)
    shutil.rmtree(folder)
    return measured


def _drawn(seed: int, folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Inputs to start from, the held-out ones with them, and the pool: others for each seed."""
    # Another name for a group is another hash, so another side of the split.
    inputs = [replace(item, group=f"{seed}-{item.group}") for item in read_inputs(INPUTS)]
    random.Random(seed).shuffle(inputs)
    held_out = [one for one in inputs if is_held_out(one.group, share=HELD_OUT, seed=0)]
    others = [one for one in inputs if not is_held_out(one.group, share=HELD_OUT, seed=0)]
    start, pool = folder / "inputs.jsonl", folder / "pool.jsonl"
    write_jsonl(start, map(_row, [*others[: arguments.start], *held_out]))
    write_jsonl(pool, map(_row, others[arguments.start :]))
    return start, pool


def _row(item: Input) -> dict[str, Any]:
    return {"text": item.text, "group": item.group, "label": item.gold}


def _figures(made: Improvement, *, seconds: float) -> dict[str, Any]:
    """What one round brought."""
    (_, one) = made.rounds
    return {
        "accuracy": one.score.value,
        "new_rows": one.new_rows,
        "teacher_tokens": one.teacher_tokens,
        "seconds": round(seconds, 1),
    }


def table(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table, in Markdown."""
    held_out, rows, start = (
        np.mean([one[key] for one in seeds]) for key in ("held_out", "rows", "start")
    )
    lines = [
        f"{len(seeds)} seeds; on average {rows:.0f} rows to start from, {held_out:.0f} held-out "
        "inputs",
        "",
        "| inputs of the round | accuracy, of gold | difference from random, points (95 %) | "
        "labelled | teacher tokens |",
        "|---|---|---|---|---|",
        f"| none: the student to start from | {start:.1%} | - | - | - |",
    ]
    for way in WAYS:
        mine = [one[way] for one in seeds]
        accuracy, labelled, tokens = (
            np.mean([one[key] for one in mine])
            for key in ("accuracy", "new_rows", "teacher_tokens")
        )
        gains = np.array([one[way]["accuracy"] - one[WAYS[0]]["accuracy"] for one in seeds])
        lines.append(
            f"| {way} | {accuracy:.1%} | {_shown(gains) if way != WAYS[0] else '-'} | "
            f"{labelled:.0f} | {tokens:.0f} |"
        )
    return lines


def _shown(gains: "np.ndarray[Any, Any]") -> str:
    """Mean in percentage points, with the interval of Student's t over the seeds."""
    if len(gains) < 2:
        return f"{100 * gains.mean():+.2f}"
    spread = gains.std(ddof=1) / len(gains) ** 0.5 * student_t.ppf(0.975, len(gains) - 1)
    low, high = gains.mean() - spread, gains.mean() + spread
    return f"{100 * gains.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


if __name__ == "__main__":
    main()
