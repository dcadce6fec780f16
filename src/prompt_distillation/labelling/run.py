"""From a job to its dataset: census, lock, journal, teacher, files, in that order."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass

from prompt_distillation.data.dataset_files import Shard
from prompt_distillation.data.locks import hold_lock, refuse_if_held
from prompt_distillation.errors import InputError
from prompt_distillation.labelling.corrections import Corrections, read_corrections
from prompt_distillation.labelling.counts import Counts
from prompt_distillation.labelling.dataset import DatasetBuilder, UnfinishedError
from prompt_distillation.labelling.finished import is_finished, tell_what_is_kept
from prompt_distillation.labelling.job import Job
from prompt_distillation.labelling.journal import Journal, open_journal
from prompt_distillation.labelling.labeller import Labeller, OpenTeacher
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.labelling.sources import Census, take_census

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """How a run speaks, and what it notes of itself.

    Attributes:
        interval_seconds: between two plain lines of progress.
        config: the command's own configuration, for the manifest.
    """

    interval_seconds: float
    config: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What the manifest says of the run itself.

    Attributes:
        started: by `time.monotonic`, in seconds.
        found: requests that were in the journal before.
        config: see `Reporting`.
    """

    started: float
    found: int
    config: dict[str, object]


def create_dataset(
    job: Job, open_teacher: OpenTeacher, *, overwrite: bool, reporting: Reporting
) -> Counts | None:
    """Label all inputs and write the dataset; a run that was stopped goes on where it was.

    Returns:
        What the dataset holds; None if it was there already.

    Raises:
        InputError, TaskError: an input that cannot be taken; nothing was paid for.
        OutputExistsError: another dataset is there, and ``overwrite`` is false.
        OutputBusyError: another process works on the same output.
        OutputWriteError: a full disk; what was paid for is in the journal.
        EngineError: the teacher cannot be had, or is gone; likewise.
    """
    started = time.monotonic()
    census, corrections, settings = _prepare(job)
    with _sole_owner(job, job.shard):
        if is_finished(job.paths, settings, model=job.teacher.model, overwrite=overwrite):
            logger.info("%s is finished already; nothing to do", job.paths.dataset)
            return None
        with _open_journal(job, writable=True) as journal:
            note = _Note(started=started, found=len(journal), config=reporting.config)
            label_shard(job, census, journal, open_teacher, reporting)
            return _build(job, journal, settings, corrections, note)


def label_one_shard(
    job: Job, open_teacher: OpenTeacher, *, overwrite: bool, reporting: Reporting
) -> None:
    """Label this process's part of the inputs; `merge_shards` writes the dataset.

    Raises: as `create_dataset`.
    """
    census, _, settings = _prepare(job)
    with _sole_owner(job, job.shard):
        if is_finished(job.paths, settings, model=job.teacher.model, overwrite=overwrite):
            logger.info("%s is finished already; nothing to do", job.paths.dataset)
            return
        with _open_journal(job, writable=True) as journal:
            label_shard(job, census, journal, open_teacher, reporting)
        logger.info("shard %d of %d is labelled", job.shard.index, job.shard.count)


def merge_shards(job: Job, *, overwrite: bool, reporting: Reporting) -> Counts | None:
    """Write the dataset out of the journals of all shards; needs no teacher.

    Returns:
        What the dataset holds; None if it was there already.

    Raises:
        InputError: a shard is missing or not finished.
        OutputExistsError, OutputBusyError, OutputWriteError: as `create_dataset`.
    """
    started = time.monotonic()
    _, corrections, settings = _prepare(job)
    with _sole_owner(job, Shard()):
        if is_finished(job.paths, settings, model=job.teacher.model, overwrite=overwrite):
            logger.info("%s is finished already; nothing to do", job.paths.dataset)
            return None
        with _open_journal(job, writable=False) as journal:
            note = _Note(started=started, found=len(journal), config=reporting.config)
            return _build(job, journal, settings, corrections, note)


def label_shard(
    job: Job, census: Census, journal: Journal, open_teacher: OpenTeacher, reporting: Reporting
) -> None:
    """Ask the teacher for whatever the journal lacks of this process's part of the inputs."""
    identity = job.teacher.identity(job.task)
    tell_what_is_kept(journal, identity)
    progress = Progress(census.in_shard, interval_seconds=reporting.interval_seconds)
    labeller = Labeller(
        task=job.task,
        teacher=job.teacher,
        ballots=job.ballots(),
        keys=job.keys(identity),
        journal=journal,
        progress=progress,
    )
    with progress.shown():
        run_until_stopped(labeller.label(job.source.read_shard(job.shard), open_teacher))
    logger.info(
        "labelled %d inputs, %d were done before", progress.labelled,
        census.in_shard - progress.labelled,
    )  # fmt: skip


def run_until_stopped(work: Coroutine[object, object, None]) -> None:
    """Run ``work``; both Ctrl-C and SIGTERM stop it in order, freeing the teacher.

    Raises:
        KeyboardInterrupt: it was stopped.
    """

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        # A platform without signal handlers on its loop, or a thread: Ctrl-C alone then.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _prepare(job: Job) -> tuple[Census, Corrections, dict[str, object]]:
    """Read all that can be wrong before anything is locked, loaded or paid for."""
    census = take_census(job.source, job.task, job.shard)
    corrections = read_corrections(job.paths.corrections, job.task, duplicates=job.duplicates)
    return census, corrections, job.settings(census, corrections)


@contextlib.contextmanager
def open_for_probe(job: Job) -> Iterator[Journal]:
    """The journal as the run itself would have it, so that a probe is paid for only once."""
    with _sole_owner(job, job.shard), _open_journal(job, writable=True) as journal:
        yield journal


@contextlib.contextmanager
def _sole_owner(job: Job, shard: Shard) -> Iterator[None]:
    """Hold the lock of ``shard``, sure that nobody works on the same inputs cut in another way."""
    with hold_lock(job.paths.lock(shard)):
        for other in (Shard(), *job.paths.shards()):
            if other.count != shard.count:
                refuse_if_held(job.paths.lock(other))
        if shard.count == 1:
            job.paths.remove_leftovers()
        yield


def _open_journal(job: Job, *, writable: bool) -> contextlib.AbstractContextManager[Journal]:
    """This process's journal to write, and every other one of the dataset to read."""
    own = job.shard if writable else None
    others = [job.paths.journal(shard) for shard in job.paths.shards() if shard != own]
    return open_journal(
        job.teacher.identity(job.task),
        writable=job.paths.journal(own) if own else None,
        others=others,
    )


def _build(
    job: Job,
    journal: Journal,
    settings: dict[str, object],
    corrections: Corrections,
    note: _Note,
) -> Counts:
    """Write the dataset's files."""
    builder = DatasetBuilder(
        paths=job.paths,
        journal=journal,
        keys=job.keys(job.teacher.identity(job.task)),
        ballots=job.ballots(),
        corrections=corrections,
        held_out=(job.held_out, job.teacher.seed),
        labels=job.task.labels,
        num_shards=job.shard.count,
    )
    try:
        counts = builder.build(
            job.source.read(),
            lambda counts, sha256: job.manifest(
                settings=settings,
                counts=counts,
                dataset_sha256=sha256,
                seconds=time.monotonic() - note.started,
                requests_made=len(journal) - note.found,
                config=note.config,
            ),
        )
    except UnfinishedError as error:
        if job.shard.count == 1:
            raise
        raise InputError(_unfinished_shards(job, error)) from error
    _warn_if_none_held_out(job, counts)
    return counts


def _warn_if_none_held_out(job: Job, counts: Counts) -> None:
    """Say now, and not when the student is evaluated, that there is nothing to evaluate it on."""
    if counts.held_out or not counts.train or not job.held_out:
        return
    # Read once more: only few groups all miss the share, so the file is small.
    groups = len({item.group for item in job.source.read()})
    logger.warning(
        "nothing is held out to evaluate on: the inputs are %d groups and --held_out is %g; bring "
        "inputs of more groups, or label again with a larger --held_out",
        groups,
        job.held_out,
    )


def _unfinished_shards(job: Job, error: UnfinishedError) -> str:
    parts = []
    for index, count in sorted(error.by_shard.items()):
        shard = Shard(index=index, count=job.shard.count)
        state = "has" if job.paths.journal(shard).exists() else "was never started: it has"
        parts.append(f"shard {index} {state} {count} inputs without a label")
    first = min(error.by_shard)
    return (
        f"cannot merge {job.paths.dataset}: {'; '.join(parts)}; run the same command with "
        f"--shard_index {first} --num_shards {job.shard.count} instead of --merge (and the same "
        "model, prompt and sampling)"
    )
