"""`sft`, `soft` and `on_policy` side by side, at equal tokens of the teacher and equal steps.

    python benchmarks/methods.py --task language   # labels
    python benchmarks/methods.py --task card       # JSON
    python benchmarks/methods.py --task persona    # texts
    python benchmarks/methods_table.py             # the tables and the figure of the three

The teacher answers each input at least three times, once for all runs. Of these answers two
datasets are made: *one vote* has the first answer to each of ``inputs`` inputs; *votes* has up to
three answers to fewer inputs, until the teacher has written as many tokens. Five ways to train are
compared with the same seeds: `sft` and `soft` on either, and `on_policy`, which continues an `sft`
run on one vote; its steps together are as many as those of the others. The run that it continues
is measured too, so that what its own steps bring can be told from what fewer `sft` steps lose.

All of it under three conditions: the teacher's answers as they are, 20 % of them wrong, and a tenth
of the inputs. A wrong answer is the teacher's whole output for another input with another answer:
its reasoning, its label and its probabilities. Each output is exchanged by itself, so a majority
may outvote it.

The held-out inputs are scored one by one: labels by the most likely one against gold, JSON by the
F1 of the values against gold, texts by chrF against the teacher's text. So are as many inputs out
of distribution (`Bench.shifted`). Forgetting is the perplexity of plain text, as `scripts/probe.py`
measures it. The output file keeps each run as it ends: a stopped benchmark goes on from there.
"""

import argparse
import gc
import random
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prompt_distillation.api import evaluate, label, load_task, train
from prompt_distillation.config import EngineConfig, ModelConfig
from prompt_distillation.data.answer_logprobs import (
    AnswerLogprobs,
    LogprobsWriter,
    VoteRow,
    context_key,
    open_logprobs,
)
from prompt_distillation.data.dataset_files import Record, RecordedOutput, read_records
from prompt_distillation.data.files import read_json, sibling, write_json, write_jsonl
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.results import Prediction, Result
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.engines import engine_options
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.evaluation.field_scores import field_scores
from prompt_distillation.evaluation.likelihood import likelihood_model
from prompt_distillation.evaluation.prober import MATERIAL, read_passages
from prompt_distillation.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from example_models.cards import canonical, card_of  # noqa: E402 - found by the line above

FOLDER = Path("build/methods")
METHODS = ("sft", "sft on votes", "soft", "soft on votes", "on_policy")
START = "sft, before on_policy"
"""The run that `on_policy` continues."""
CONDITIONS = {"clean": (0.0, 1.0), "20 % wrong": (0.2, 1.0), "10 % of the data": (0.0, 0.1)}
"""Name -> share of the teacher's outputs that are wrong, share of the data."""
VOTES = 3
DROPPED = 0.2
"""Share of the letters that a noisy input lacks."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained for one task.

    Attributes:
        inputs: that the teacher labels, held-out ones not counted.
        tested: held-out inputs that are asked, and as many out of distribution.
        steps: optimizer steps of each student; ``on_policy_steps`` are the last of them.
        longest_answer: of a student, in tokens.
    """

    input_file: str
    teacher: str
    student: str
    held_out: float
    inputs: int
    tested: int
    steps: int
    on_policy_steps: int
    learning_rate: float
    on_policy_learning_rate: float
    longest_answer: int
    decoding: str = "free"


RADIO = Plan(
    input_file="example-data/card.jsonl", teacher="example-models/radio-teacher",
    student="example-models/radio-student", held_out=0.2, inputs=400, tested=100, steps=120,
    on_policy_steps=50, learning_rate=2e-3, on_policy_learning_rate=2e-4, longest_answer=64,
)  # fmt: skip
PLANS = {
    "language": Plan(
        input_file="example-data/multilingual.txt", teacher="example-models/teacher",
        student="example-models/student", held_out=0.1, inputs=400, tested=206, steps=120,
        on_policy_steps=50, learning_rate=3e-3, on_policy_learning_rate=5e-4, longest_answer=16,
        decoding="scored",
    ),
    "card": RADIO,
    "persona": replace(
        RADIO, input_file="example-data/persona.jsonl", learning_rate=3e-3,
        on_policy_learning_rate=5e-4,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Output:
    """What the teacher wrote once, and its log-probabilities."""

    recorded: RecordedOutput
    scores: VoteRow

    @property
    def answer(self) -> str:
        """What was read out of it."""
        return self.scores.answer


def main() -> None:
    """Make every run that the output file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=PLANS, required=True)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--engine", default="auto", help="that labels; evaluation: transformers")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    plan, output = PLANS[arguments.task], arguments.folder / f"{arguments.task}.json"
    settings = asdict(plan) | {"conditions": list(CONDITIONS)}
    done: dict[str, Any] = read_json(output) if output.exists() else {}
    if done and done["settings"] != settings:
        raise SystemExit(f"{output} holds runs with other settings; move it away")
    done = done or {"task": arguments.task, "settings": settings, "datasets": {}, "runs": {}}
    bench = Bench(arguments.task, plan, arguments.folder / arguments.task, arguments.engine)
    for condition in CONDITIONS:
        done["datasets"][condition] = bench.write_datasets(condition)
    done.setdefault("perplexity_before", bench.perplexity(Path(plan.student)))
    write_json(output, done)
    for seed in range(arguments.seeds):
        for condition in CONDITIONS:
            for method in METHODS:
                name = f"{condition} / {method} / {seed}"
                if name in done["runs"]:
                    continue
                if time.monotonic() > end:
                    print(f"time is up before {name}; the same command goes on")
                    return
                for row, run in bench.measure(method, condition, seed).items():
                    done["runs"][f"{condition} / {row} / {seed}"] = run
                    print(condition, row, seed, {**run, "scores": "..."}, flush=True)
                write_json(output, done)
                gc.collect()  # a trainer and its model refer to each other


class Bench:
    """The teacher's outputs for one task, and the students trained on them."""

    def __init__(self, name: str, plan: Plan, folder: Path, engine: str) -> None:
        self._plan, self._folder = plan, folder
        self._task: Task = load_task(f"tasks/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        inputs = list(read_inputs(Path(plan.input_file)))
        apart = [is_held_out(one.group, share=plan.held_out, seed=0) for one in inputs]
        held_out = [one for one, out in zip(inputs, apart, strict=True) if out][: plan.tested]
        trained = [one for one, out in zip(inputs, apart, strict=True) if not out]
        random.Random(0).shuffle(trained)
        trained = trained[: plan.inputs]
        shifted = self.shifted(held_out)
        write_jsonl(folder / "inputs.jsonl", map(self._row, [*trained, *held_out, *shifted]))
        write_jsonl(folder / "tested.jsonl", map(self._row, held_out))
        write_jsonl(folder / "shifted.jsonl", map(self._row, shifted))
        # With five votes no majority is certain before the third: each input has three outputs.
        self._labelled = label(
            task=self._task, input_file=folder / "inputs.jsonl",
            output_file=folder / "labelled.jsonl", model_name=plan.teacher, engine=engine,
            temperature=0.7, max_tokens=256, num_votes=5, top_logprobs=20, held_out=plan.held_out,
            overwrite=True,
        ).dataset  # fmt: skip
        self._outputs = self._read_outputs()

    def shifted(self, held_out: Sequence[Input]) -> list[Input]:
        """Inputs out of distribution: noisy sentences, two calls in one, or calls to the keeper."""
        if self._task.labels:
            return [replace(one, text=noisy(one.text)) for one in held_out]
        if self._task.answers.has_right_answers:
            others = [*held_out[1:], held_out[0]]
            return [two_calls(one, two) for one, two in zip(held_out, others, strict=True)]
        calls = read_inputs(Path("example-data/card.jsonl"))
        share = self._plan.held_out
        return [c for c in calls if is_held_out(c.group, share=share, seed=0)][: len(held_out)]

    def _row(self, item: Input) -> dict[str, Any]:
        """An input as a file holds it; of texts nothing is gold."""
        gold = item.gold if self._task.answers.has_right_answers else None
        return {"text": item.text, "group": item.group} | ({"label": gold} if gold else {})

    def _read_outputs(self) -> list[tuple[Record, list[Output]]]:
        """The first three outputs with an answer, of each input to train on that has them."""
        votes: dict[bytes, list[VoteRow]] = {}
        for row in open_logprobs(sibling(self._labelled, "logprobs")).rows():
            votes.setdefault(row.key, []).append(row)
        found = []
        for record in read_records(sibling(self._labelled, "records")):
            recorded = [out for out in record["outputs"] if out["answer"] is not None]
            scored = votes.get(_key(record), [])
            if record["held_out"] or record["duplicate"] or len(scored) < VOTES:
                continue
            pairs = zip(recorded, scored, strict=False)
            outputs = [Output(one, two) for one, two in pairs if one["answer"] == two.answer]
            found.append((record, outputs[:VOTES]))
        return found

    def write_datasets(self, condition: str) -> dict[str, Any]:
        """Write both datasets of a condition; returns what is in them."""
        noise, share = CONDITIONS[condition]
        given = _exchanged(self._outputs, noise)[: round(len(self._outputs) * share)]
        singles = [(record, outputs[:1]) for record, outputs in given]
        budget, several = _tokens(singles), []
        for record, outputs in given:
            drawn = self._until_decided(outputs)
            if _tokens([*several, (record, drawn)]) > budget:
                break
            several.append((record, drawn))
        return {
            kind: self._write(self._file(condition, kind), rows)
            for kind, rows in (("one vote", singles), ("votes", several))
        }

    def _until_decided(self, outputs: Sequence[Output]) -> list[Output]:
        """As labelling does: no more votes once the majority cannot change."""
        most = max(self._tally(outputs[: VOTES - 1]).values())
        return list(outputs[: VOTES - 1] if most > VOTES // 2 else outputs)

    def _tally(self, outputs: Sequence[Output]) -> dict[str, int]:
        answers = [one.answer for one in outputs]
        return {answer: answers.count(answer) for answer in answers}

    def _file(self, condition: str, kind: str) -> Path:
        return self._folder / f"{condition} {kind}.jsonl".replace(" ", "_").replace("%", "percent")

    def _write(self, path: Path, rows: Sequence[tuple[Record, list[Output]]]) -> dict[str, Any]:
        made, records, right = [], [], []
        whole = open_logprobs(sibling(self._labelled, "logprobs"))
        with sibling(path, "logprobs").open("wb") as file:
            writer = LogprobsWriter(
                file, top=whole.top, labels=whole.labels, vocabulary=whole.vocabulary_sha256
            )
            for record, outputs in rows:
                winner = self._task.answers.count_votes([one.answer for one in outputs]).winner
                turns = [{"role": "user", "content": record["text"]}]
                made.append({"messages": [*turns, {"role": "assistant", "content": winner}]})
                records.append(
                    record | {
                        "answer": winner, "teacher_answer": winner, "reasoning": None,
                        "outputs": [one.recorded for one in outputs],
                    }
                )  # fmt: skip
                if record["gold"] is not None:
                    right.append(winner == record["gold"])
                for one in outputs:
                    scores = _packed(one.scores, whole.top)
                    writer.write(_key(record), one.answer, scores, one.scores.labels)
            writer.close()
        write_jsonl(path, made)
        write_jsonl(sibling(path, "records"), records)
        shutil.copyfile(sibling(self._labelled, "manifest"), sibling(path, "manifest"))
        return {
            "rows": len(rows),
            "outputs": sum(len(outputs) for _, outputs in rows),
            "teacher_tokens": _tokens(rows),
            "as_gold": round(sum(right) / len(right), 4) if right else None,
            # How sure the teacher is of the label that it wrote, after its reasoning.
            "label_probability": round(float(np.mean(sure)), 5) if (sure := _sure(rows)) else None,
        }

    def measure(self, method: str, condition: str, seed: int) -> dict[str, dict[str, Any]]:
        """Train and evaluate one student; for `on_policy` also the one that it continues."""
        kind = "votes" if method.endswith("votes") else "one vote"
        train_file, folder, plan = self._file(condition, kind), self._folder / "run", self._plan
        shutil.rmtree(folder, ignore_errors=True)
        first = "sft" if method == "on_policy" else method.split()[0]
        steps = plan.steps - (plan.on_policy_steps if method == "on_policy" else 0)
        started = time.process_time()
        self._train(train_file, folder / "first", first, seed, steps, plan.learning_rate)
        seconds = time.process_time() - started
        if method != "on_policy":
            return {method: self._measured(folder / "first", seconds)}
        before = self._measured(folder / "first", seconds)
        started = time.process_time()
        self._train(
            train_file, folder / "second", method, seed, plan.on_policy_steps,
            plan.on_policy_learning_rate, adapter_path=folder / "first",
            teacher_model=plan.teacher, max_completion_length=plan.longest_answer,
        )  # fmt: skip
        seconds += time.process_time() - started
        return {START: before, method: self._measured(folder / "second", seconds)}

    def _measured(self, adapter: Path, seconds: float) -> dict[str, Any]:
        """Scores, calibration and forgetting of a student whose training took CPU ``seconds``."""
        result = self._evaluate(adapter, "tested.jsonl")
        shifted = self._evaluate(adapter, "shifted.jsonl")
        scores = {"held out": _scores(result), "shifted": _scores(shifted)}
        run: dict[str, Any] = {"cpu_seconds": round(seconds, 1), "scores": scores}
        run["perplexity"] = self.perplexity(adapter)
        if result.confidence and result.confidence.calibration:
            error = result.confidence.calibration.expected_calibration_error
            run["calibration_error"] = round(error, 5)
        means = {f"mean, {name}": round(sum(s) / len(s), 4) for name, s in scores.items()}
        return run | means

    def _train(
        self, train_file: Path, folder: Path, method: str, seed: int, steps: int, rate: float,
        **more: Any,
    ) -> None:  # fmt: skip
        train(
            train_file, output_dir=folder, model_name=self._plan.student, method=method, seed=seed,
            max_steps=steps, learning_rate=rate, lora_rank=32, lora_alpha=16,
            per_device_train_batch_size=16, gradient_accumulation_steps=1, max_length=512,
            gradient_checkpointing=False, report_to="none", held_out_answers=0, eval_file="none",
            save_strategy="no", logging_steps=20, **more,
        )  # fmt: skip

    def _evaluate(self, adapter: Path, test_file: str) -> Result:
        return evaluate(
            adapter, task=self._task, test_file=self._folder / test_file, split="all",
            train_data_file=self._labelled, decoding=self._plan.decoding, engine="transformers",
            max_tokens=self._plan.longest_answer,
        )  # fmt: skip

    def perplexity(self, model: Path) -> float:
        """Of plain text."""
        options = engine_options(ModelConfig(model_name=str(model)), EngineConfig())
        encoder = PromptEncoder.of(replace(options, adapter=None))
        with likelihood_model(options, encoder) as loaded:
            scores = loaded.score_texts(read_passages(MATERIAL / "plain_text.txt"))
        known = [score for score in scores if score]
        nats, tokens = sum(one.nats for one in known), sum(one.tokens for one in known)
        return float(np.exp(nats / tokens))


def noisy(text: str) -> str:
    """Lower case, no punctuation, and each letter is missing with a chance of `DROPPED`.

    >>> noisy("Where is the station?")
    'wheeis te station'
    """
    draw = random.Random(text)
    kept = [c for c in text.lower() if not unicodedata.category(c).startswith("P")]
    return "".join(c for c in kept if draw.random() >= DROPPED).strip() or text


def two_calls(first: Input, second: Input) -> Input:
    """One call after the other, with the card of both."""
    text = f"{first.text} {second.text}"
    return replace(first, text=text, gold=canonical(card_of(text)))


def _key(record: Record) -> bytes:
    return context_key([{"role": "user", "content": record["text"]}])


def _tokens(rows: Sequence[tuple[Record, Sequence[Output]]]) -> int:
    return sum(one.recorded["completion_tokens"] for _, outputs in rows for one in outputs)


def _sure(rows: Sequence[tuple[Record, Sequence[Output]]]) -> list[float]:
    found = [one.scores.labels for _, outputs in rows for one in outputs]
    return [max(labels) for labels in found if labels]


def _exchanged(
    rows: Sequence[tuple[Record, list[Output]]], noise: float
) -> list[tuple[Record, list[Output]]]:
    """Put outputs for other inputs, with other answers, in place of a share of the outputs."""
    draw, pool = random.Random(0), [one for _, outputs in rows for one in outputs]

    def exchange(own: Output) -> Output:
        if draw.random() >= noise:
            return own
        return draw.choice([other for other in pool if other.answer != own.answer])

    return [(record, [exchange(one) for one in outputs]) for record, outputs in rows]


def _packed(row: VoteRow, top: int) -> AnswerLogprobs:
    return AnswerLogprobs(
        top=top, written=tuple(row.written), texts=(),
        ids=np.asarray(row.ids, dtype="<i4").tobytes(),
        logprobs=np.asarray(row.logprobs, dtype="<f2").tobytes(),
        mass=np.asarray(row.mass, dtype="<f4").tobytes(),
    )  # fmt: skip


def _scores(result: Result) -> list[float]:
    """How right each answer is, from 0 to 1, in the order of the inputs."""
    score = {"labels": _label_score, "fields": _field_score, "text": _text_score}
    return [
        round(score[result.metrics or "labels"](item), 4)
        for item in result.predictions
        if item.ground_truth is not None
    ]


def _label_score(item: Prediction) -> float:
    return float(bool(item.correct))


def _field_score(item: Prediction) -> float:
    scores = field_scores([item])
    return scores.f1 if scores else 0.0


def _text_score(item: Prediction) -> float:
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(item.predicted or "", [item.ground_truth or ""]).score) / 100


if __name__ == "__main__":
    main()
