"""Texts probed for what overlap cannot see: character, pressure, perplexity, forgetting.

    python scripts/probe.py --task tasks/persona --test_file inputs.txt
    python scripts/probe.py --probes perplexity,forgetting

`python scripts/probe.py --help` lists every option.
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
    sys.exit(run_script("probe"))
