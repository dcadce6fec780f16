"""Rounds that improve a student: label what it is weak at, train on, measure.

A round chooses inputs, lets the teacher label them, trains the student on from its adapter, and
measures it on the held-out inputs of its dataset, which are the same in every round. What a round
has written is not made again, so a run that was stopped continues with the same command::

    models/improve/
        improve.json          settings, what each round brought, and why it ended
        held_out.jsonl        the inputs that every student is measured on
        round-0/              the student to begin with: evaluation.json
        round-1/
            inputs.jsonl      what was chosen; examples.jsonl and written.jsonl: of the teacher
            labels.jsonl      the teacher's labels, and the files of a labelling run beside them
            train.jsonl       those rows and rows of before; its records say all that was trained on
            student/          the adapter, trained on from that of the round before
            evaluation.json   the student on the held-out inputs
"""

import dataclasses
import functools
import itertools
import logging
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prompt_distillation.choosing import (
    Known,
    ask_student,
    hardest,
    rank,
    tokens_of_writing,
    write_inputs,
)
from prompt_distillation.config import ModelConfig, flat, split_settings
from prompt_distillation.config.evaluate_config import EvaluateConfig, TestConfig
from prompt_distillation.config.improve_config import ImproveConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.dataset_files import read_records
from prompt_distillation.data.files import (
    DatasetPart,
    atomic_writer,
    read_json,
    read_jsonl,
    refuse_unsafe_outputs,
    sibling,
    write_json,
    write_jsonl,
)
from prompt_distillation.data.improvement import IMPROVE_FILE, Improvement, Round
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.intervals import Estimate, mean_interval
from prompt_distillation.data.locks import hold_lock
from prompt_distillation.data.result_files import read_result, write_result
from prompt_distillation.data.training_files import MANIFEST_FILE
from prompt_distillation.errors import ConfigError, InputError, OutputExistsError
from prompt_distillation.evaluation.evaluator import evaluate
from prompt_distillation.evaluation.metrics import held_out_scores, paired_gain
from prompt_distillation.examples import find_example
from prompt_distillation.labelling.dataset import Counts
from prompt_distillation.labelling.labeller import OpenTeacher
from prompt_distillation.labelling.pipeline import label
from prompt_distillation.provenance import model_fingerprint, provenance, sha256_of_file
from prompt_distillation.tasks import Task, load_task, task_files
from prompt_distillation.yaml_files import read_yaml_mapping

logger = logging.getLogger(__name__)

HELD_OUT_FILE, LOCK_FILE = "held_out.jsonl", ".lock"
INPUTS_FILE, LABELS_FILE, TRAIN_FILE = "inputs.jsonl", "labels.jsonl", "train.jsonl"
RESULT_FILE = "evaluation.json"

_IDENTITY = (
    "student_path", "train_data_file", "pool", "text_field", "group_field", "write_inputs",
    "select", "inputs_per_round", "replay", "teacher_recipe", "training_recipe", "seed",
)  # fmt: skip
"""Settings that decide what the rounds hold; a run that is continued may change the others."""

_OF_A_ROUND: Mapping[str, Any] = {
    "held_out": 0.0, "max_samples": None, "shard_index": 0, "num_shards": 1, "merge": False,
    "overwrite": False, "dry_run": False, "text_field": "text", "label_field": "label",
    "group_field": "group",
}  # fmt: skip
"""Settings of labelling that a round has its own values of, whatever the dataset was made with."""


def improve(config: ImproveConfig, *, open_teacher: OpenTeacher | None = None) -> Improvement:
    """Improve a student in rounds; writes ``improve.json`` and a folder for each round.

    A run that was stopped, or that should go on for more rounds, continues with the same call.

    Args:
        config: the student, the pool, how inputs are chosen, and when it ends.
        open_teacher: opens the teacher's engine; None opens the one that labelled the dataset.

    Raises:
        ConfigError: a setting that does not fit the student or its task.
        InputError: no manifest, no held-out inputs, or a pool that cannot be read.
        OutputExistsError: the folder holds rounds of other settings, or someone else's files.
        ModelError, EngineError: as for labelling, training and evaluation.
    """
    rounds = _open(config, open_teacher)
    folder = config.output_dir
    refuse_unsafe_outputs([folder], rounds.reads(), is_ours=_is_ours)
    with hold_lock(folder / LOCK_FILE):
        _refuse_other_settings(folder / IMPROVE_FILE, rounds.identity)
        if not (folder / IMPROVE_FILE).is_file():  # the mark that the folder is ours
            write_json(folder / IMPROVE_FILE, {"rounds": [], "identity": rounds.identity})
        return rounds.go()


def _open(config: ImproveConfig, open_teacher: OpenTeacher | None) -> "_Rounds":
    """Read what is known about the student, before anything is asked or written."""
    manifest = config.student_path / MANIFEST_FILE
    if not manifest.is_file():
        raise InputError(
            f"{manifest} is not there; --student_path must be the folder of a finished training "
            "run of train_sft_trl.py"
        )
    training = _config_in(manifest)
    if training.get("method", "sft") != "sft":
        raise ConfigError(
            f"{config.student_path} was trained with --method {training['method']}, and rounds "
            "train with sft; improve an sft student first, and use the other method last"
        )
    dataset = config.train_data_file or Path(training["train_file"])
    made = sibling(dataset, "manifest")
    if not made.is_file():
        raise InputError(
            f"{made} is not there; improve.py needs the dataset as create_data.py wrote it "
            "(--train_data_file says where it is)"
        )
    recorded = LabelConfig.of(
        **_config_in(made) | _recipe(config.teacher_recipe) | dict(_OF_A_ROUND)
    )
    task = load_task(recorded.task)
    counts = Counts.of(read_json(made)["counts"])
    return _Rounds(
        config=config,
        task=task,
        labelling=recorded,
        training=training | _recipe(config.training_recipe),
        dataset=dataset,
        tokens_per_input=counts.completion_tokens / max(counts.inputs, 1),
        known=Known.of_records(sibling(dataset, "records")),
        pool=list(read_inputs(config.pool, fields=config.inputs)) if config.pool else [],
        open_teacher=open_teacher,
    )


def _config_in(manifest: Path) -> dict[str, Any]:
    """The settings that a manifest records."""
    config = read_json(manifest).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{manifest}: not a manifest of this version; it has no 'config'")
    return config


def _recipe(path: Path | None) -> dict[str, Any]:
    return read_yaml_mapping(find_example(path), error=ConfigError) if path else {}


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds rounds, or a lock alone."""
    if not folder.is_dir():
        return False
    if (folder / IMPROVE_FILE).is_file():
        return {"rounds", "identity"} <= read_json(folder / IMPROVE_FILE).keys()
    return {entry.name for entry in folder.iterdir()} == {LOCK_FILE}


def _refuse_other_settings(path: Path, identity: Mapping[str, Any]) -> None:
    """Raise `OutputExistsError` if the folder has rounds that were made with other settings."""
    before = read_json(path)["identity"] if path.is_file() else identity
    changed = [key for key in identity if identity[key] != before.get(key)]
    if changed:
        key = changed[0]
        raise OutputExistsError(
            f"{path.parent} holds rounds of another run ({key} was {before.get(key)!r}, is "
            f"{identity[key]!r}); choose another --output_dir"
        )


@dataclass(kw_only=True)
class _Rounds:
    """The rounds of one run.

    Attributes:
        labelling: how the teacher labels; each round has its own files.
        training: settings of the student's training run, flat.
        tokens_per_input: that the teacher wrote when it labelled last.
        scores: of each round, `held_out_scores`.
        datasets: the student's dataset, and the labels of each round so far.
    """

    config: ImproveConfig
    task: Task
    labelling: LabelConfig
    training: Mapping[str, Any]
    dataset: Path
    tokens_per_input: float
    known: Known
    pool: Sequence[Input]
    open_teacher: OpenTeacher | None
    rounds: list[Round] = field(default_factory=list)
    scores: list[dict[int, float]] = field(default_factory=list)
    datasets: list[Path] = field(default_factory=list)

    def reads(self) -> list[Path]:
        """Files and folders that no output may replace."""
        config = self.config
        named = [config.pool, config.teacher_recipe, config.training_recipe]
        given = [path for path in named if path is not None]
        return [*given, config.student_path, self.dataset, *task_files(self.labelling.task)]

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same: settings that decide what is chosen, and the inputs."""
        settings = flat(self.config)
        hashes = {
            f"sha256 of {path}": sha256_of_file(path) for path in self.reads() if path.is_file()
        }
        student = model_fingerprint(str(self.config.student_path))
        return {key: settings[key] for key in _IDENTITY} | hashes | {"student": student}

    def go(self) -> Improvement:
        """Rounds until one of the reasons to end."""
        self._write_held_out()
        self.datasets = [self.dataset]
        scores = self._measure(0, self.config.student_path, self.dataset)
        self.scores = [scores]
        self.rounds = [Round(number=0, student=str(self.config.student_path), score=_mean(scores))]
        while True:
            self._save(None)
            stopped = self._reason_to_end()
            if stopped is None and not self._choose():
                # Writing new inputs may have taken the rest of the budget.
                stopped = self._reason_to_end() or "no input is left to choose"
            if stopped is not None:
                return self._save(stopped)
            self._round()

    @property
    def _last_gain(self) -> int:
        """The last round whose gain is above the noise, which the next is compared with."""
        return max((one.number for one in self.rounds if one.is_better), default=0)

    def _reason_to_end(self) -> str | None:
        config, done = self.config, len(self.rounds) - 1
        if done - self._last_gain >= config.patience:
            return "the held-out gain is inside the noise"
        if done >= config.max_rounds:
            return f"--max_rounds {config.max_rounds} is reached"
        if not self._affordable():
            return f"--max_teacher_tokens {config.max_teacher_tokens} is spent"
        return None

    def _affordable(self) -> int:
        """Inputs that the next round may label, by what an input has cost so far."""
        config = self.config
        if config.max_teacher_tokens is None:
            return config.inputs_per_round
        spent = sum(one.teacher_tokens for one in self.rounds)
        left = config.max_teacher_tokens - spent - tokens_of_writing(self._next_folder)
        return max(0, min(config.inputs_per_round, int(left / max(self.tokens_per_input, 1.0))))

    def _folder(self, number: int) -> Path:
        return self.config.output_dir / f"round-{number}"

    @property
    def _next_folder(self) -> Path:
        return self._folder(len(self.rounds))

    def _write_held_out(self) -> None:
        """Write the held-out inputs of the student's dataset, which measure every round."""
        records = read_records(sibling(self.dataset, "records"))
        count = write_jsonl(
            self.config.output_dir / HELD_OUT_FILE,
            (
                input_row(record["text"], record["history"], record["group"], record["gold"])
                for record in records
                if record["held_out"]
            ),
        )
        if not count:
            raise InputError(
                f"{self.dataset} has no held-out inputs to measure a gain by; label with "
                "--held_out 0.1 and train on that"
            )

    def _round(self) -> None:
        """Label what was chosen, train on, and measure."""
        number = len(self.rounds)
        folder, before = self._folder(number), self.rounds[-1]
        asked = sum(1 for _ in read_jsonl(folder / INPUTS_FILE))
        logger.info("round %d: the teacher labels %d inputs", number, asked)
        labelled = label(
            replace(
                self.labelling,
                input_file=folder / INPUTS_FILE,
                output_file=folder / LABELS_FILE,
            ),
            open_teacher=self.open_teacher,
        )
        assert labelled.counts is not None
        self.tokens_per_input = labelled.counts.completion_tokens / asked
        self.datasets.append(labelled.dataset)
        new, old = self._rows(number)
        student = self._train(number, [*new, *old], before.student)
        scores = self._measure(number, student, folder / TRAIN_FILE)
        against = self._last_gain
        made = Round(
            number=number,
            student=str(student),
            asked=asked,
            new_rows=len(new),
            old_rows=len(old),
            teacher_tokens=labelled.counts.completion_tokens + tokens_of_writing(folder),
            score=_mean(scores),
            gain=paired_gain(self.scores[against], scores),
            compared_with=against,
        )
        self.rounds.append(made)
        self.scores.append(scores)
        is_better = "above" if made.is_better else "inside"
        logger.info(
            "round %d: score %.1f%%, a gain %s the noise", number, 100 * made.score.value, is_better
        )

    # --- choosing

    def _choose(self) -> bool:
        """Choose the inputs of the next round and write them; False where none is left."""
        config, folder, number = self.config, self._next_folder, len(self.rounds)
        path = folder / INPUTS_FILE
        if path.is_file():
            self.known.take(read_inputs(path), self.config.inputs_per_round)
            return True
        student = self._evaluation(self.rounds[-1].student)
        ask = functools.partial(ask_student, student, self.task)
        draw = random.Random(f"{config.seed}:{number}")
        written: Sequence[Input] = ()
        if config.write_inputs:
            labelled = [item for dataset in self.datasets for item in read_inputs(dataset)]
            written = write_inputs(
                folder,
                hardest(labelled, ask=ask, draw=draw),
                count=config.write_inputs,
                labelling=self.labelling,
                open_teacher=self.open_teacher,
            )
        candidates = [item for item in (*self.pool, *written) if not self.known.has(item)]
        ranked = rank(candidates, by=config.select, ask=ask, draw=draw)
        chosen = self.known.take(ranked, self._affordable())
        # In the pool's order: which of two nearly equal inputs comes first depends on the batch.
        place = {id(item): at for at, item in enumerate(candidates)}
        chosen.sort(key=lambda item: place[id(item)])
        logger.info("round %d: %d of %d inputs chosen", number, len(chosen), len(candidates))
        if chosen:
            rows = (input_row(one.text, one.history, one.group, one.gold) for one in chosen)
            write_jsonl(path, rows)
        return bool(chosen)

    # --- training and measuring

    def _rows(self, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The new chat rows, and those of before that are trained on again."""
        *before, latest = ([row for _, row in read_jsonl(path)] for path in self.datasets)
        old = list(itertools.chain(*before))
        count = min(len(old), round(self.config.replay * len(latest)))
        drawn = random.Random(f"rows:{self.config.seed}:{number}")
        return latest, drawn.sample(old, count)

    def _train(self, number: int, rows: Sequence[dict[str, Any]], start: str) -> Path:
        """Train the student on; beside the rows stand the records of all that it was trained on."""
        from rich.console import Console

        from prompt_distillation.training.run import train

        folder = self._folder(number)
        student, file = folder / "student", folder / TRAIN_FILE
        if (student / MANIFEST_FILE).is_file():
            return student
        write_jsonl(file, rows)
        # So that evaluate.py knows what is held out, and what was trained on in earlier rounds.
        parts: dict[DatasetPart, list[Path]] = {
            "records": self.datasets, "heldout": self.datasets[:1],
        }  # fmt: skip
        for part, sources in parts.items():
            with atomic_writer(sibling(file, part), "wb") as target:
                for source in sources:
                    with sibling(source, part).open("rb") as opened:
                        shutil.copyfileobj(opened, target)
        settings = {
            **self.training,
            "train_file": file,
            "output_dir": student,
            "run_name": f"{self.config.output_dir.name} round {number}",
            "resume_from_checkpoint": "auto",
            "overwrite": False,
            "dry_run": False,
        }
        settings["adapter_path" if settings["use_lora"] else "model_name"] = start
        own, options = split_settings(TrainConfig, settings)
        logger.info("round %d: training on %d rows", number, len(rows))
        train(TrainConfig.of(**own), options, console=Console(quiet=True))
        return student

    def _evaluation(self, student: str) -> EvaluateConfig:
        model = ModelConfig(
            model_name=student, trust_remote_code=self.training["trust_remote_code"]
        )
        return EvaluateConfig(model=model, engine=self.config.engine)

    def _measure(self, number: int, student: str | Path, train_file: Path) -> dict[int, float]:
        """The student's score on each held-out input, as evaluate.py measures it."""
        path = self._folder(number) / RESULT_FILE
        if not path.is_file():
            test = TestConfig(
                task=self.labelling.task,
                test_file=self.config.output_dir / HELD_OUT_FILE,
                train_data_file=train_file,
            )
            logger.info("round %d: measuring the student on the held-out inputs", number)
            write_result(path, evaluate(replace(self._evaluation(str(student)), test=test)))
        scores = held_out_scores(read_result(path).predictions)
        if not scores:
            raise InputError(f"no held-out input of {self.dataset} has a known answer")
        return scores

    def _save(self, stopped: str | None) -> Improvement:
        """Write ``improve.json``: what there is so far."""
        made = Improvement(
            metric="accuracy" if self.task.answers.has_right_answers else "chrF",
            held_out=len(self.scores[0]),
            rounds=tuple(self.rounds),
            stopped=stopped,
        )
        best = made.best.number
        if best:
            made = replace(made, total_gain=paired_gain(self.scores[0], self.scores[best]))
        value = dataclasses.asdict(made) | {
            "best": best,
            "identity": self.identity,
            "config": flat(self.config),
            "provenance": provenance(),
        }
        write_json(self.config.output_dir / IMPROVE_FILE, value)
        return made


def _mean(scores: Mapping[int, float]) -> Estimate:
    if not {0.0, 1.0}.issuperset(scores.values()):
        return paired_gain(dict.fromkeys(scores, 0.0), scores)  # the bootstrap of the mean
    mean = sum(scores.values()) / len(scores)
    return Estimate(value=mean, interval=mean_interval(mean, len(scores)))


def input_row(
    text: str, history: Iterable[Mapping[str, Any]], group: str, gold: str | None
) -> dict[str, Any]:
    """An input as `read_inputs` reads it."""
    turns = [*history, {"role": "user", "content": text}]
    named = {"text": text} if len(turns) == 1 else {"messages": turns}
    return {**named, "group": group, "label": gold}
