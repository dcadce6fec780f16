"""Nothing is lost and nothing is paid for twice: runs killed at random moments, and resumed.

    python benchmarks/labelling_kills.py
    python benchmarks/labelling_kills.py --runs 3 --inputs 300          # a quick look

Each run labels the inputs with a scripted teacher in a process of its own, which is killed (kill
-9) at a random moment and started again, until it ends. Compared with an uninterrupted run: the
dataset byte for byte, and the journal for completions that are missing or there twice.
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
        lost = twice = differing = kills = 0
        for number in range(arguments.runs):
            killed = make_folder(Path(folder) / f"run-{number}", arguments.inputs)
            kills += kill_and_resume(killed, arguments.votes, arguments.kills, chance)
            made = completions_in(killed)
            lost += len(wanted.keys() - made.keys())
            twice += sum(count - 1 for count in made.values())
            differing += files_of(killed) != files_of(whole)
        print(
            f"{arguments.runs} runs of {arguments.inputs:,} inputs, {kills} kills: {lost} "
            f"completions lost, {twice} paid for twice, {differing} datasets that differ"
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


def kill_and_resume(folder: Path, votes: int, most: int, chance: random.Random) -> int:
    """Run to the end, killed at most ``most`` times on the way; returns how often."""
    killed = 0
    for _ in range(most):
        with subprocess.Popen(command(folder, votes), stderr=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.1, 2.0))
            process.kill()
            process.wait()
            killed += process.returncode != 0
        if process.returncode == 0:
            return killed
    subprocess.run(command(folder, votes), check=True, stderr=subprocess.DEVNULL)
    return killed


def completions_in(folder: Path) -> Counter[tuple[str, int, int]]:
    """How often the journal holds each completion."""
    lines = (folder / "out.journal.jsonl").read_bytes().splitlines()
    rows = [row for line in lines if "key" in (row := json.loads(line))]
    return Counter((row["key"], row["vote"], row["attempt"]) for row in rows)


def files_of(folder: Path) -> list[bytes]:
    """The dataset, byte for byte."""
    return [(folder / f"out{part}.jsonl").read_bytes() for part in PARTS]


if __name__ == "__main__":
    main()
