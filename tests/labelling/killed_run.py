"""One labelling run with a scripted teacher, in a process of its own, to be killed from outside.

python killed_run.py FOLDER [VOTES [DELAY_SECONDS]]
"""

import sys
from pathlib import Path

# Run as a script: the package of test helpers is the folder above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from labelling.scripted import ScriptedEngine, run_label

from prompt_distillation.cli.running import run_command


def main(argv: list[str]) -> None:
    folder, votes, delay = (*argv, *("1", "0.001")[len(argv) - 1 :])
    engine = ScriptedEngine(delay_seconds=float(delay))
    run_label(Path(folder), engine, num_votes=int(votes))


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:], goes_on=True))
