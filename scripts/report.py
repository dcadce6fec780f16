"""Show what was measured: one HTML page, pictures, W&B, the model card.

    python scripts/report.py
    python scripts/report.py --comparison_dir ./comparison

`python scripts/report.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("report")
