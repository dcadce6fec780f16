"""Nothing is lost and nothing is paid for twice: runs killed at random moments, and resumed.

    python benchmarks/labelling_kills.py
    python benchmarks/labelling_kills.py --runs 3 --inputs 300          # a quick look

Each run labels the inputs with a scripted teacher in a process of its own, which is killed (kill
-9) at random moments and started again, until it ends. A moment is a size that the journal grows
to, drawn between what it has and what it will have, so that the kill meets work; after a run's
first kill, once in four times, it is a time after the start instead, which may meet anything.
Compared with an uninterrupted run: the dataset byte for byte, and the journal for completions that
are missing or there twice.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = ROOT / "tests" / "labelling" / "killed_run.py"
PARTS = ("", ".heldout", ".records", ".rejects")


def main() -> None:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=4, help="per run")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--votes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = make_folder(Path(folder) / "whole", arguments.inputs)
        subprocess.run(command(whole, arguments.votes), check=True, stderr=subprocess.DEVNULL)
        wanted = completions_in(whole)
        grown = journal_of(whole).stat().st_size
        lost = twice = differing = 0
        kills = []
        for number in range(arguments.runs):
            killed = make_folder(Path(folder) / f"run-{number}", arguments.inputs)
            kills.append(kill_and_resume(killed, arguments, grown, chance))
            made = completions_in(killed)
            lost += len(wanted.keys() - made.keys())
            twice += sum(count - 1 for count in made.values())
            differing += files_of(killed) != files_of(whole)
        print(
            f"{arguments.runs} runs of {arguments.inputs:,} inputs, {sum(kills)} kills (at least "
            f"{min(kills)} a run): {lost} completions lost, {twice} paid for twice, {differing} "
            "datasets that differ"
        )


def make_folder(folder: Path, inputs: int) -> Path:
    """A folder with so many inputs."""
    folder.mkdir()
    lines = [f"sentence number {number}\n" for number in range(inputs)]
    (folder / "inputs.txt").write_text("".join(lines))
    return folder


def command(folder: Path, votes: int) -> list[str]:
    """The run, slow enough to be caught at work."""
    return [sys.executable, str(RUN), str(folder), str(votes), "0.002"]


def journal_of(folder: Path) -> Path:
    """Where a run keeps its completions."""
    return folder / "out.journal.jsonl"


def kill_and_resume(
    folder: Path, arguments: argparse.Namespace, grown: int, chance: random.Random
) -> int:
    """Run to the end, killed on the way; returns how often.

    Args:
        folder: of the run.
        arguments: ``kills``, the most; ``votes`` an input.
        grown: bytes of the journal at the end of a run.
        chance: draws the moments.
    """
    killed = 0
    for _ in range(arguments.kills):
        with subprocess.Popen(
            command(folder, arguments.votes), stderr=subprocess.DEVNULL
        ) as process:
            by_time = killed > 0 and chance.random() < 0.25
            if by_time:
                time.sleep(chance.uniform(0.1, 2.0))
            else:
                wait_for_moment(process, journal_of(folder), grown, chance)
            process.kill()
            process.wait()
        if process.returncode == 0:
            break
        killed += 1
    subprocess.run(command(folder, arguments.votes), check=True, stderr=subprocess.DEVNULL)
    return killed


def wait_for_moment(
    process: subprocess.Popen[bytes], journal: Path, grown: int, chance: random.Random
) -> None:
    """Wait until the journal has grown to some size, or the process has ended."""
    size = journal.stat().st_size if journal.exists() else 0
    moment = chance.uniform(size, grown)
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > moment):
        time.sleep(0.0005)


def completions_in(folder: Path) -> Counter[tuple[str, int, int]]:
    """How often the journal holds each completion."""
    lines = journal_of(folder).read_bytes().splitlines()
    rows = [row for line in lines if "key" in (row := json.loads(line))]
    return Counter((row["key"], row["vote"], row["attempt"]) for row in rows)


def files_of(folder: Path) -> list[bytes]:
    """The dataset, byte for byte."""
    return [(folder / f"out{part}.jsonl").read_bytes() for part in PARTS]


if __name__ == "__main__":
    main()
