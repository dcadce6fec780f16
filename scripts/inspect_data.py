"""Look at inputs and datasets before you train on them: an HTML page, and JSON.

    python scripts/inspect_data.py --input_file data/inputs.jsonl
    python scripts/inspect_data.py --dataset data/mine.jsonl --task tasks/mine

Exit code 3: something would spoil a training run. `python scripts/inspect_data.py --help` lists
every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("inspect-data")
