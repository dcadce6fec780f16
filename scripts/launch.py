"""Run a command of the package for a script of the checkout."""

import sys


def launch(command: str) -> None:
    """Run a command with the script's arguments; without the environment, say how to get it."""
    try:
        from prompt_distillation.cli.main import run_script
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed for {sys.executable}; run `bash "
            "scripts/install.sh`, then `source .venv/bin/activate`\n"
        )
        sys.exit(2)
    sys.exit(run_script(command))
