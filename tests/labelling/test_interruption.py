"""What must never cost a completion: kill -9, two runs at once, a full disk, Ctrl-C."""

import errno
import fcntl
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from labelling.scripted import files_of, run_label, write_inputs

from prompt_distillation.data.dataset_files import Shard, dataset_paths
from prompt_distillation.data.locks import hold_lock
from prompt_distillation.errors import OutputBusyError, OutputWriteError

RUN = Path(__file__).parent / "killed_run.py"


@contextmanager
def running(
    folder: Path, *, votes: int = 1, delay: float = 0.001
) -> Iterator[subprocess.Popen[str]]:
    """A labelling run in a process of its own, which does not outlive the test."""
    command = [sys.executable, str(RUN), str(folder), str(votes), str(delay)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def journal_lines(folder: Path) -> int:
    path = folder / "out.journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stop_at(process: subprocess.Popen[str], folder: Path, lines: int, how: signal.Signals) -> str:
    """Send ``how`` once the journal holds ``lines`` lines, and return what was said."""
    wait_for_lines(process, folder, lines)
    process.send_signal(how)
    return process.communicate()[1]


def wait_for_lines(process: subprocess.Popen[str], folder: Path, lines: int) -> None:
    while process.poll() is None and journal_lines(folder) < lines:
        time.sleep(0.002)


def requests_in(folder: Path) -> Counter:
    lines = (folder / "out.journal.jsonl").read_bytes().splitlines()
    rows = [json.loads(line) for line in lines]
    return Counter((r["key"], r["vote"], r["attempt"]) for r in rows if "key" in r)


@pytest.mark.parametrize("votes", [1, 3])
def test_a_killed_run_ends_with_the_file_of_an_uninterrupted_one(tmp_path, votes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_inputs(folder, 400)
    run_label(whole, num_votes=votes)
    chance = random.Random(votes)
    for part in range(3):
        lines = chance.randrange(1 + 50 * part, 50 + 50 * part)
        with running(killed, votes=votes, delay=0.005) as process:
            stop_at(process, killed, lines, signal.SIGKILL)
        assert not (killed / "out.jsonl").exists()
    # As if the last kill had come in the middle of a write.
    with (killed / "out.journal.jsonl").open("ab") as journal:
        journal.write(b'{"key":"00ff')
    with running(killed, votes=votes, delay=0.0) as last:
        _, messages = last.communicate()
        assert last.returncode == 0, messages
    assert files_of(killed) == files_of(whole)
    assert requests_in(killed) == requests_in(whole)
    assert set(requests_in(killed).values()) == {1}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(tmp_path, how):
    write_inputs(tmp_path, 150)
    with running(tmp_path, delay=0.02) as process:
        messages = stop_at(process, tmp_path, 20, how)
    assert process.returncode == 130
    assert "run the same command again" in messages
    assert "Traceback" not in messages
    assert journal_lines(tmp_path) >= 20


def test_the_second_of_two_runs_is_told_who_holds_the_output(tmp_path):
    write_inputs(tmp_path, 150)
    with running(tmp_path, delay=0.05) as first:
        wait_for_lines(first, tmp_path, 1)
        with running(tmp_path) as second:
            _, messages = second.communicate()
        assert second.returncode == 2
        assert f"held by process {first.pid} on" in messages
        assert messages.count("\n") == 1
    # The lock died with its holder.
    with running(tmp_path, delay=0.0) as third:
        third.communicate()
        assert third.returncode == 0


def test_a_whole_run_and_a_shard_of_it_do_not_run_at_once(tmp_path):
    write_inputs(tmp_path, 10)
    run_label(tmp_path, shard_index=0, num_shards=2)
    lock = dataset_paths(tmp_path / "out.jsonl").lock(Shard(index=0, count=2))
    with hold_lock(lock), pytest.raises(OutputBusyError, match="0-of-2"):
        run_label(tmp_path)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputWriteError, match="file system with locks"), hold_lock(tmp_path / "l"):
        pass


def test_a_full_disk_is_one_clear_error_and_costs_nothing(tmp_path):
    write_inputs(tmp_path, 60)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # A file may not grow beyond this: the system's answer is that of a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
        with pytest.raises(OutputWriteError, match="what it holds is safe"):
            run_label(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = journal_lines(tmp_path) - 1
    assert kept > 5
    assert (tmp_path / "out.journal.jsonl").read_bytes().endswith(b"\n")
    _, again = run_label(tmp_path)
    whole = tmp_path / "whole"
    write_inputs(whole, 60)
    _, uninterrupted = run_label(whole)
    assert len(again.requests) == len(uninterrupted.requests) - kept
    assert files_of(tmp_path) == files_of(whole)


def test_a_disk_that_fills_up_while_the_dataset_is_written_leaves_the_old_one(tmp_path):
    write_inputs(tmp_path, 60)
    run_label(tmp_path)
    old = files_of(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
        with pytest.raises(OutputWriteError, match="free some space"):
            run_label(tmp_path, held_out=0.5, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_of(tmp_path) == old
    assert not list(tmp_path.glob(".*.partial"))
