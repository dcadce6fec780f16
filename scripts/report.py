"""Show what was measured: one HTML page, pictures, W&B, the model card.

    python scripts/report.py
    python scripts/report.py --comparison_dir ./comparison

`python scripts/report.py --help` lists every option.
"""

import sys

from prompt_distillation.cli.report import main
from prompt_distillation.cli.running import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
