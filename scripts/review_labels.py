"""Go through disputed labels in the terminal: accept them or correct them.

    python scripts/review_labels.py
    python scripts/review_labels.py --show gold --list
    python scripts/review_labels.py --dataset data/mine.jsonl --task tasks/mine

`python scripts/review_labels.py --help` lists every option.
"""

import sys

if __name__ == "__main__":
    try:
        from prompt_distillation.cli.main import run_script
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed for {sys.executable}; run `bash "
            "scripts/install.sh`, then `source .venv/bin/activate`\n"
        )
        sys.exit(2)
    sys.exit(run_script("review-labels"))
