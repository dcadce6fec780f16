"""`sft` and `soft` side by side, on answers and on votes, at equal steps of the student.

    python benchmarks/methods.py --seeds 5                       # the example task, 5 seeds
    python benchmarks/methods.py --seeds 5 --label_noise 0.2     # a fifth of the answers made wrong
    python benchmarks/methods.py --seeds 5 --data_share 0.1      # a tenth of the rows

There are two datasets: one vote on all inputs, and up to ``--votes`` votes on so many fewer inputs.
The second costs the teacher no more; it costs less where votes agree and stop early. The tokens of
both are printed. Each method trains on both, with the same seeds and the same number of steps,
and all students are asked the same held-out inputs, of which no one is among the rows of any
dataset. Accuracy is against gold; the calibration error is that of the labels' probabilities.
Differences from the first line are paired by seed and input, with a 95 % bootstrap interval over
inputs. What was measured already is kept in the output file and not measured again.
"""

import argparse
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prompt_distillation.api import evaluate, label, load_task, train
from prompt_distillation.data.answer_logprobs import (
    AnswerLogprobs,
    LogprobsWriter,
    VoteRow,
    context_key,
    open_logprobs,
)
from prompt_distillation.data.files import read_json, read_jsonl, sibling, write_json, write_jsonl

TASK, INPUTS = "tasks/language", "example-data/multilingual.txt"
METHODS, DATA = ("sft", "soft"), ("one vote", "votes")
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of the table, for one seed."""

    method: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, and its key in the output."""
        return f"{self.method}-{self.data.replace(' ', '-')}-{self.seed}"


def main() -> None:
    """Label, train and evaluate what the output does not hold yet; print the table."""
    arguments = _arguments()
    folder: Path = arguments.folder
    done: dict[str, Any] = (
        read_json(arguments.output_file) if arguments.output_file.exists() else {}
    )
    names = ("votes", "steps", "label_noise", "data_share", "max_samples")
    settings = {name: getattr(arguments, name) for name in names}
    if done and done["settings"] != settings:
        raise SystemExit(f"{arguments.output_file} holds other settings: {done['settings']}")
    done = done or {"settings": settings, "runs": {}}
    datasets = _datasets(arguments)
    done["teacher_tokens"] = {
        name: read_json(sibling(path, "manifest"))["counts"]["completion_tokens"]
        for name, path in datasets.items()
    }
    used = {
        name: _changed(
            path, folder / "used", noise=arguments.label_noise, share=arguments.data_share
        )
        for name, path in datasets.items()
    }
    for seed in range(arguments.seeds):
        for data in DATA:
            for method in METHODS:
                run = Setting(method=method, data=data, seed=seed)
                if run.name not in done["runs"]:
                    done["runs"][run.name] = _measure(
                        run, arguments, used[data], datasets["one vote"]
                    )
                    write_json(arguments.output_file, done)
    print(f"teacher tokens: {done['teacher_tokens']}")
    print("\n".join(table(done["runs"], seeds=range(arguments.seeds))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/methods"))
    parser.add_argument("--output_file", type=Path, default=Path("build/methods/methods.json"))
    parser.add_argument("--teacher", default="example-models/teacher")
    parser.add_argument("--student", default="example-models/student")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--votes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--max_samples", type=int, default=2101)
    parser.add_argument("--label_noise", type=float, default=0.0)
    parser.add_argument("--data_share", type=float, default=1.0)
    return parser.parse_args()


def _datasets(arguments: argparse.Namespace) -> dict[str, Path]:
    """Label both; a dataset that is finished is only read."""
    made = {}
    for name, votes in zip(DATA, (1, arguments.votes), strict=True):
        made[name] = arguments.folder / f"{name.replace(' ', '_')}.jsonl"
        label(
            task=TASK, input_file=INPUTS, output_file=made[name], model_name=arguments.teacher,
            engine=arguments.engine, temperature=0.7, max_tokens=256, top_logprobs=20,
            num_votes=votes, max_samples=arguments.max_samples // votes,
        )  # fmt: skip
    return made


def _changed(source: Path, folder: Path, *, noise: float, share: float) -> Path:
    """A copy of a dataset with a share of its rows, and wrong answers in a share of those.

    A wrong answer is a teacher that takes one label for another in all that it says of an input:
    in its votes, and in its probabilities.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, generator = folder / source.name, random.Random(0)
    rows = [row for _, row in read_jsonl(source)]
    rows = generator.sample(rows, round(len(rows) * share))
    labels = list(load_task(TASK).labels)
    swapped = {}
    for row in generator.sample(rows, round(len(rows) * noise)):
        answer = row["messages"][-1]
        wrong = generator.choice([other for other in labels if other != answer["content"]])
        swapped[context_key(row["messages"][:-1])] = (answer["content"], wrong)
        answer["content"] = wrong
    write_jsonl(target, rows)
    for part in ("heldout", "manifest"):
        shutil.copyfile(sibling(source, part), sibling(target, part))
    _write_swapped(sibling(source, "logprobs"), sibling(target, "logprobs"), swapped)
    return target


def _write_swapped(source: Path, target: Path, swapped: Mapping[bytes, tuple[str, str]]) -> None:
    file = open_logprobs(source)
    with target.open("wb") as opened:
        writer = LogprobsWriter(
            opened, top=file.top, labels=file.labels, vocabulary=file.vocabulary_sha256
        )
        for row in file.rows():
            shares, answer = list(row.labels), row.answer
            if row.key in swapped:
                pair = swapped[row.key]
                first, second = map(file.labels.index, pair)
                shares[first], shares[second] = shares[second], shares[first]
                answer = {pair[0]: pair[1], pair[1]: pair[0]}.get(answer, answer)
            writer.write(row.key, answer, _packed(row, file.top), shares)
        writer.close()


def _packed(row: VoteRow, top: int) -> AnswerLogprobs:
    return AnswerLogprobs(
        top=top, written=tuple(row.written), texts=(),
        ids=np.asarray(row.ids, dtype="<i4").tobytes(),
        logprobs=np.asarray(row.logprobs, dtype="<f2").tobytes(),
        mass=np.asarray(row.mass, dtype="<f4").tobytes(),
    )  # fmt: skip


def _measure(
    run: Setting, arguments: argparse.Namespace, train_file: Path, held_out_of: Path
) -> dict[str, Any]:
    """Train and evaluate one student."""
    started = time.monotonic()
    trained = train(
        train_file, output_dir=arguments.folder / "runs" / run.name, model_name=arguments.student,
        method=run.method, seed=run.seed, max_steps=arguments.steps, learning_rate=1e-3,
        per_device_train_batch_size=16, gradient_accumulation_steps=1, max_length=512,
        gradient_checkpointing=False, report_to="none", held_out_answers=0, eval_file="none",
        save_strategy="no", logging_steps=20, overwrite=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    result = evaluate(
        trained, task=TASK, test_file=INPUTS, train_data_file=held_out_of,
        max_samples=None, decoding="scored", engine="transformers",
    )  # fmt: skip
    confidence = result.confidence
    shutil.rmtree(trained.output_dir)
    return {
        "correct": {p.text: p.correct for p in result.predictions if p.correct is not None},
        "accuracy": result.summary.accuracy,
        "calibration_error": confidence.calibration.expected_calibration_error
        if confidence
        else None,
        "seconds": round(seconds, 1),
    }


def table(runs: Mapping[str, Any], *, seeds: Sequence[int]) -> list[str]:
    """The table, in Markdown; differences are from its first line."""
    lines = ["| method | data | accuracy, of gold | difference (95 %) | calibration error | s |"]
    lines.append("|---|---|---|---|---|---|")
    first: np.ndarray[Any, Any] | None = None
    for data in DATA:
        for method in METHODS:
            mine = [runs[Setting(method=method, data=data, seed=seed).name] for seed in seeds]
            correct = np.mean([list(run["correct"].values()) for run in mine], axis=0)
            first = correct if first is None else first
            error = np.mean([run["calibration_error"] for run in mine])
            seconds = np.mean([run["seconds"] for run in mine])
            lines.append(
                f"| {method} | {data} | {correct.mean():.2%} | {_difference(correct - first)} "
                f"| {error:.3f} | {seconds:.0f} |"
            )
    return lines


def _difference(paired: "np.ndarray[Any, Any]") -> str:
    """Mean difference in percentage points, with a bootstrap interval over inputs."""
    if not paired.any():
        return "-"
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(paired), size=(RESAMPLES, len(paired)))
    low, high = np.percentile(paired[drawn].mean(axis=1), [2.5, 97.5])
    return f"{100 * paired.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


if __name__ == "__main__":
    main()
