"""Go through disputed labels in the terminal: accept them or correct them.

    python scripts/review_labels.py
    python scripts/review_labels.py --show gold --list
    python scripts/review_labels.py --dataset data/mine.jsonl --task tasks/mine

`python scripts/review_labels.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("review-labels")
