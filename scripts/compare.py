"""Teacher and student side by side: accuracy, tokens, latency, throughput, and what it saves.

    python scripts/compare.py
    python scripts/compare.py --config recipes/cpu-example-compare.yaml

`python scripts/compare.py --help` lists every option.
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
    sys.exit(run_script("compare"))
