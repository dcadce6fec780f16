"""Teacher and student side by side: accuracy, tokens, latency, throughput, and what it saves.

    python scripts/compare.py
    python scripts/compare.py --config recipes/cpu-example-compare.yaml

`python scripts/compare.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("compare")
