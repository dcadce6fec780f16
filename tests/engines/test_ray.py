"""Labelling on a Ray cluster of this machine: the same dataset, whoever dies."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from engines.asking import ask, tiny_engine

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.engines import Completion, EngineOptions, RequestFailedError
from prompt_distillation.engines.ray_cluster import (
    EngineWorker,
    Machine,
    OpenedEngine,
    plan_workers,
)
from prompt_distillation.errors import ConfigError, EngineError, ModelError

pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
INPUTS = 120


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def machines(*sizes: tuple[int, int]) -> list[Machine]:
    return [Machine(node_id=str(n), cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)]


def test_workers_fill_the_gpus_by_tensor_parallel_size():
    cluster = machines((64, 8), (64, 8), (64, 2), (64, 0))
    four = EngineOptions(model="m", tensor_parallel_size=4)
    assert [(p.gpus, p.node_id) for p in plan_workers(cluster, four, workers=None)] == [
        (4, None)
    ] * 4
    assert len(plan_workers(cluster, four, workers=3)) == 3
    with pytest.raises(EngineError, match=r"no machine of the Ray cluster has more than 8 GPU"):
        plan_workers(cluster, EngineOptions(model="m", tensor_parallel_size=16), workers=None)


def test_workers_share_the_cores_where_there_are_no_gpus():
    cluster, options = machines((8, 0), (8, 0)), EngineOptions(model="m")
    alone = plan_workers(cluster, options, workers=None)
    assert [(p.cpus, p.node_id, p.shares) for p in alone] == [(8, "0", 1), (8, "1", 1)]
    shared = plan_workers(cluster, options, workers=4)
    assert [(p.cpus, p.node_id, p.share) for p in shared] == [
        (4, "0", 0), (4, "1", 0), (4, "0", 1), (4, "1", 1),
    ]  # fmt: skip
    with pytest.raises(EngineError, match="more than 0 GPU"):
        plan_workers(cluster, EngineOptions(model="m", device="cuda"), workers=None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ray_workers": 2}, "without a cluster"),
        ({"ray_workers": 0, "ray_address": "local"}, "must be between 1 and"),
        ({"ray_address": "local", "engine": "server", "server_url": "x"}, "leave it out"),
    ],
)
def test_flags_that_contradict_each_other_are_told(flags, message):
    with pytest.raises(ConfigError, match=message):
        LabelConfig.of(**flags)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{port}", "Connect call failed"),
        ("ray://127.0.0.1:{port}", "Connect call failed"),
        ("host:port", "allowed are auto, local, HOST:PORT and ray://HOST:PORT"),
    ],
)
async def test_a_cluster_that_is_not_there_is_told_at_once(address, message, tiny_models):
    address = address.format(port=closed_port())
    with pytest.raises(EngineError, match=message):
        async with tiny_engine(tiny_models.teacher, ray_address=address):
            pass


def command(folder: Path, *arguments: str | Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "create_data.py"), "--task", str(folder / "task"),
        "--input_file", str(folder / "in.txt"), "--engine", "transformers", "--no_thinking",
        "--temperature", "1", "--max_tokens", "96", "--max_concurrency", "8",
        *map(str, arguments),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Inputs, and a task whose every text is an answer: a random model has no other."""
    texts = [f"number {number}" for number in range(INPUTS)]
    texts[INPUTS // 2] += " which is too long for the model" * 200
    (tmp_path / "in.txt").write_text("\n".join(texts))
    task = tmp_path / "task"
    task.mkdir()
    (task / "task.yaml").write_text("name: t\nkind: generation\nprompt_file: prompt.md\n")
    (task / "prompt.md").write_text("Write something about the number that is given.\n")
    return tmp_path


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[psutil.Popen]:
    """A process whose whole tree does not outlive the test."""
    # Ray would keep the token of its own cluster in the home folder.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with log.open("w") as file:
        process = psutil.Popen(
            arguments, cwd=ROOT, stdout=file, stderr=file, env=os.environ | token
        )
    tree: list[psutil.Process] = []
    try:
        yield process
        assert process.wait(timeout=240) == 0, log.read_text()
    finally:
        if process.is_running():
            tree = [*process.children(recursive=True), process]
        for one in tree:
            one.kill()
        process.wait()


def workers_of(process: psutil.Popen) -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if "EngineWorker" in name_of(one)]


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def rows_of(journal: Path) -> list[dict]:
    if not journal.exists():
        return []
    whole = journal.read_bytes().rpartition(b"\n")[0].splitlines()
    return [row for line in whole if "key" in (row := json.loads(line))]


def wait_for_rows(process: psutil.Popen, journal: Path, count: int) -> None:
    while process.poll() is None and len(rows_of(journal)) < count:
        time.sleep(0.01)


@pytest.mark.slow
def test_workers_that_are_killed_cost_nothing(folder, stopping_model):
    model = ["--model_name", stopping_model]
    alone = command(folder, "--output_file", folder / "alone.jsonl", *model)
    subprocess.run(alone, check=True, cwd=ROOT, capture_output=True)
    ray = ["--ray_address", "local", "--ray_workers", "2"]
    log, journal = folder / "log", folder / "ray.journal.jsonl"
    with running(command(folder, "--output_file", folder / "ray.jsonl", *model, *ray), log) as run:
        wait_for_rows(run, journal, 8)
        first, *_ = workers_of(run)
        first.send_signal(signal.SIGKILL)
        wait_for_rows(run, journal, INPUTS // 2)
        # Now all there are: what is left is for those that replace them.
        for worker in workers_of(run):
            worker.send_signal(signal.SIGKILL)
    assert log.read_text().count("died and is replaced") >= 2
    assert "Traceback" not in log.read_text()
    for part in ("jsonl", "heldout.jsonl"):
        assert (folder / f"ray.{part}").read_bytes() == (folder / f"alone.{part}").read_bytes()
    (failed,) = (row["error"] for row in rows_of(journal) if "error" in row)
    assert "leaves no room for an answer: the limit of both together is 4096" in failed
    dataset = (folder / "ray.jsonl").read_bytes() + (folder / "ray.heldout.jsonl").read_bytes()
    assert dataset.count(b"\n") > INPUTS / 2
    asked = Counter((row["key"], row["vote"], row["attempt"]) for row in rows_of(journal))
    assert asked.keys() == {
        (row["key"], row["vote"], row["attempt"])
        for row in rows_of(folder / "alone.journal.jsonl")
    }  # fmt: skip
    assert set(asked.values()) == {1}


def test_no_cluster_is_one_line(folder, tiny_models):
    address = f"127.0.0.1:{closed_port()}"
    done = subprocess.run(
        command(folder, "--output_file", folder / "o.jsonl", "--ray_address", address,
                "--model_name", tiny_models.teacher),
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"error: no Ray cluster at --ray_address {address}"
    )
    assert "Traceback" not in done.stderr


async def test_a_worker_returns_what_a_user_can_mend(tiny_models, tmp_path):
    worker = EngineWorker()
    missing = await worker.open("transformers", EngineOptions(model=str(tmp_path / "nowhere")))
    assert isinstance(missing, ModelError)
    await worker.close()
    worker = EngineWorker()
    opened = await worker.open(
        "transformers", EngineOptions(model=str(tiny_models.student), max_concurrency=3)
    )
    assert opened == OpenedEngine(name="transformers", concurrency=3)
    assert isinstance(await worker.complete(ask("5 " * 4096)), RequestFailedError)
    assert isinstance(await worker.complete(ask("5")), Completion)
    await worker.close()
    assert isinstance(await worker.complete(ask("5")), EngineError)
