"""Go through disputed labels in the terminal: accept them or correct them.

    python scripts/review_labels.py
    python scripts/review_labels.py --show gold --list
    python scripts/review_labels.py --dataset data/mine.jsonl --task tasks/mine

`python scripts/review_labels.py --help` lists every option.
"""

import sys

from prompt_distillation.cli.review_labels import main
from prompt_distillation.cli.running import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
