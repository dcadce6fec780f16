"""Show what was measured: one HTML page, pictures, W&B, the model card.

    python scripts/report.py
    python scripts/report.py --comparison_dir ./comparison

`python scripts/report.py --help` lists every option.
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
    sys.exit(run_script("report"))
