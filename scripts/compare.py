"""Teacher and student side by side: accuracy, tokens, latency, throughput, and what it saves.

    python scripts/compare.py
    python scripts/compare.py --config recipes/cpu-example-compare.yaml

`python scripts/compare.py --help` lists every option.
"""

import sys

from prompt_distillation.cli.compare import main
from prompt_distillation.cli.running import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
