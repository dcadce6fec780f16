"""Labelling from start to end: inputs -> teacher -> journal -> dataset.

`label` is the one entry point, for the command and for Python. It reads and checks the inputs once,
takes the output's lock, asks the teacher for what the journal lacks, and writes the dataset. One
shard of the inputs, the merge of all shards, and a dry run are parts of the same way.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import DatasetPaths, Shard, dataset_paths
from prompt_distillation.data.files import refuse_unsafe_outputs
from prompt_distillation.data.inputs import gold_path_of
from prompt_distillation.data.intervals import Interval, wilson_interval
from prompt_distillation.data.locks import hold_lock, refuse_if_held
from prompt_distillation.engines import engine_options, open_engine
from prompt_distillation.engines.event_loop import run
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.labelling.cost_estimate import (
    PromptReader,
    estimate_lines,
    open_prompt_reader,
    run_probe,
    show_prompts,
)
from prompt_distillation.labelling.dataset import (
    Counts,
    MakeSoftLabels,
    Outcomes,
    write_dataset,
)
from prompt_distillation.labelling.disagreements import Corrections, read_corrections
from prompt_distillation.labelling.input_spool import InputSpool, read_inputs_once
from prompt_distillation.labelling.journal import Journal, digest_of, open_journal
from prompt_distillation.labelling.label_manifest import (
    EarlierRun,
    dataset_settings,
    make_manifest,
    refuse_empty,
    teacher_identity,
    tell_what_is_kept,
)
from prompt_distillation.labelling.labeller import Labeller, OpenTeacher
from prompt_distillation.labelling.progress import Progress, print_summary
from prompt_distillation.labelling.soft_labels import SoftLabelWriter, refuse_unusable
from prompt_distillation.tasks import Task, load_task, task_files

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

State = Literal["written", "finished before", "shard labelled", "dry run"]


@dataclass(frozen=True, kw_only=True)
class LabelResult:
    """The result of labelling.

    Attributes:
        dataset: the chat rows to train on; its other files are beside it.
        manifest: how it was made, and all counts.
        state: whether the dataset was written now or by an earlier run; a shard and a dry run
            write none.
        counts: what the dataset holds, and what it cost; None where none was written.
    """

    dataset: Path
    manifest: Path
    state: State
    counts: Counts | None = None

    @property
    def teacher_accuracy(self) -> float | None:
        """The teacher against gold labels, in [0, 1]; None where no input has one."""
        counts = self.counts
        return counts.gold_correct / counts.gold if counts and counts.gold else None

    @property
    def teacher_interval(self) -> Interval | None:
        """The 95 % interval of `teacher_accuracy`."""
        return wilson_interval(self.counts.gold_correct, self.counts.gold) if self.counts else None

    def __repr__(self) -> str:
        parts = [f"dataset={str(self.dataset)!r}", f"state={self.state!r}"]
        if self.counts is not None:
            names = ("inputs", "train", "held_out", "rejected")
            parts += [f"{name}={getattr(self.counts, name)}" for name in names]
        if self.teacher_accuracy is not None and self.teacher_interval is not None:
            low, high = self.teacher_interval.low, self.teacher_interval.high
            parts.append(f"teacher_accuracy={self.teacher_accuracy:.4f} ({low:.4f} to {high:.4f})")
        return f"LabelResult({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run: its settings, and what follows from them before anything is written.

    Attributes:
        identity: all that shapes a completion except the input.
        started: by `time.monotonic`, in seconds.
    """

    config: LabelConfig
    task: Task
    paths: DatasetPaths
    identity: dict[str, object]
    inputs: InputSpool
    corrections: Corrections
    console: "Console | None"
    started: float

    @property
    def shard(self) -> Shard:
        return Shard(index=self.config.shard_index, count=self.config.num_shards)


def label(
    config: LabelConfig,
    *,
    open_teacher: OpenTeacher | None = None,
    console: "Console | None" = None,
) -> LabelResult:
    """Label inputs and write the dataset; see `prompt_distillation.label`.

    Args:
        config: all settings.
        open_teacher: opens the teacher's engine; None opens the one that ``config`` names.
        console: where the summary is printed; None prints none. Progress goes to stderr.
    """
    started = time.monotonic()
    task, paths = load_task(config.task), dataset_paths(config.output_file)
    if config.decoding == "constrained" and not (task.labels or task.answers.json_schema):
        raise ConfigError(
            f"--decoding constrained needs labels or a schema; the task {task.name!r} has neither"
        )
    _refuse_unsafe(config, paths)
    refuse_unusable(config, task)
    if config.engine.engine != "server" and not config.merge:
        # Reading a million inputs takes longer than seeing that there is no such model.
        resolve_model(config.model.model_name, config.model.base_model)
    identity = teacher_identity(config, task)
    corrections = read_corrections(paths.corrections, task, duplicates=config.duplicates)
    with read_inputs_once(config, task, settings=digest_of(identity)) as inputs:
        labelling = _Run(
            config=config, task=task, paths=paths, identity=identity, inputs=inputs,
            corrections=corrections, console=console, started=started,
        )  # fmt: skip
        teacher = open_teacher or _teacher_of(config)
        if config.dry_run:
            return _dry_run(labelling, teacher, open_prompt_reader(config))
        result = _label(labelling, teacher)
    if result.counts is not None:
        if console is not None and result.state == "written":
            print_summary(result.counts, console, rejects=paths.rejects)
        refuse_empty(paths, result.counts)
    return result


def _refuse_unsafe(config: LabelConfig, paths: DatasetPaths) -> None:
    """See that no file of the dataset replaces an input, or somebody's file."""
    shard = Shard(index=config.shard_index, count=config.num_shards)
    read = [config.input_file, gold_path_of(config.input_file), *task_files(config.task)]
    model = Path(config.model.model_name)
    if model.is_dir():
        read.append(model)
    is_ours = EarlierRun(paths).owner_of(shard)
    refuse_unsafe_outputs(paths.written(shard), read, is_ours=is_ours)


def _teacher_of(config: LabelConfig) -> OpenTeacher:
    return lambda: open_engine(
        config.engine.engine,
        engine_options(config.model, config.engine, seed=config.sampling.seed),
    )


def _label(labelling: _Run, open_teacher: OpenTeacher) -> LabelResult:
    """Label this process's part of the inputs; unless that is one shard of several, write files."""
    config, paths, inputs = labelling.config, labelling.paths, labelling.inputs
    settings = dataset_settings(
        config, labelling.task, identity=labelling.identity, inputs=inputs,
        corrections=labelling.corrections,
    )  # fmt: skip
    shard = Shard() if config.merge else labelling.shard
    with _sole_owner(paths, shard):
        earlier = EarlierRun(paths)
        model = config.model.model_name
        if earlier.is_finished(settings, model=model, overwrite=config.overwrite):
            logger.info("%s is finished already; nothing to do", paths.dataset)
            counts = Counts.of(earlier.manifest["counts"])
            return _result(paths, "finished before", counts)
        with _open_journal(labelling) as journal, Outcomes(paths.dataset.parent) as outcomes:
            labeller, progress = _labeller(labelling, journal, outcomes, total=inputs.in_shard)
            if config.merge:
                missing = Counter(item.shard for item, _ in labeller.unfinished(inputs))
                _refuse_unfinished(labelling, missing)
            else:
                with progress.shown():
                    run(labeller.label(inputs.of_shard(shard), open_teacher))
                logger.info("%s", progress.totals())
            if shard.count > 1:
                logger.info("shard %d of %d is labelled", shard.index, shard.count)
                return _result(paths, "shard labelled")
            counts = write_dataset(
                paths,
                inputs,
                outcomes,
                corrections=labelling.corrections,
                labels=labelling.task.labels,
                soft_labels=_soft_labels(labelling),
                make_manifest=lambda counts, sha256: make_manifest(
                    config,
                    labelling.task,
                    settings=settings,
                    counts=counts,
                    sha256=(sha256, earlier.dataset_sha256),
                    labeller=labeller,
                    started=labelling.started,
                ),
            )
    return _result(paths, "written", counts)


def _soft_labels(labelling: _Run) -> MakeSoftLabels | None:
    """Writes the log-probabilities of the answers, where they are to be kept."""
    config, labels = labelling.config, tuple(labelling.task.labels)
    return (lambda file: SoftLabelWriter(file, config, labels)) if config.top_logprobs else None


def _result(paths: DatasetPaths, state: State, counts: Counts | None = None) -> LabelResult:
    return LabelResult(dataset=paths.dataset, manifest=paths.manifest, state=state, counts=counts)


def _dry_run(labelling: _Run, open_teacher: OpenTeacher, reader: PromptReader) -> LabelResult:
    """Show what a run would send and cost; nothing is written but the probe's journal."""
    from rich.console import Console

    config, paths, inputs = labelling.config, labelling.paths, labelling.inputs
    console = labelling.console or Console()
    show_prompts(labelling.task, inputs, reader, console)
    if config.probe_samples:
        with (
            _sole_owner(paths, labelling.shard),
            _open_journal(labelling) as journal,
            Outcomes(paths.dataset.parent) as outcomes,
        ):
            sample = inputs.sample(config.probe_samples)
            labeller, progress = _labeller(labelling, journal, outcomes, total=len(sample))
            probe = run_probe(
                labeller, inputs=inputs, sample=sample, outcomes=outcomes, progress=progress,
                open_teacher=open_teacher,
            )  # fmt: skip
        for line in estimate_lines(probe, config, gpus=reader.gpus):
            console.print(line, highlight=False, soft_wrap=True)
    return _result(paths, "dry run")


def _labeller(
    labelling: _Run, journal: Journal, outcomes: Outcomes, *, total: int
) -> tuple[Labeller, Progress]:
    tell_what_is_kept(journal, labelling.identity)
    progress = Progress(total, interval_seconds=labelling.config.progress_seconds)
    labeller = Labeller(
        task=labelling.task,
        config=labelling.config,
        journal=journal,
        outcomes=outcomes,
        progress=progress,
    )
    return labeller, progress


@contextlib.contextmanager
def _sole_owner(paths: DatasetPaths, shard: Shard) -> Iterator[None]:
    """Hold the lock of ``shard``, and check that no process uses another number of shards."""
    with hold_lock(paths.lock(shard)):
        for other in (Shard(), *paths.shards()):
            if other.count != shard.count:
                refuse_if_held(paths.lock(other))
        if shard.count == 1:
            paths.remove_leftovers()
        yield


def _open_journal(labelling: _Run) -> AbstractContextManager[Journal]:
    """This process's journal to write, unless it merges, and every other one to read."""
    paths, own = labelling.paths, None if labelling.config.merge else labelling.shard
    others = [paths.journal(shard) for shard in paths.shards() if shard != own]
    writable = paths.journal(own) if own else None
    return open_journal(
        labelling.identity,
        writable=writable,
        others=others,
        top_logprobs=labelling.config.top_logprobs,
    )


def _refuse_unfinished(labelling: _Run, missing: Counter[int]) -> None:
    """Raise `InputError` if inputs without a verdict prevent a merge."""
    if not missing:
        return
    count, parts = labelling.config.num_shards, []
    for index, inputs in sorted(missing.items()):
        started = labelling.paths.journal(Shard(index=index, count=count)).exists()
        state = "has" if started else "was never started: it has"
        parts.append(f"shard {index} {state} {inputs} inputs without a label")
    raise InputError(
        f"cannot merge {labelling.paths.dataset}: {'; '.join(parts)}; run the same command with "
        f"--shard_index {min(missing)} --num_shards {count} instead of --merge (and the same "
        "model, prompt and sampling)"
    )
