"""How a command ends: a user's error is one line and exit code 2, not a traceback."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.logging import RichHandler

from prompt_distillation.errors import PromptDistillationError

USER_ERROR = 2
INTERRUPTED = 130


def run_command(command: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    """Run ``command(argv)`` and return the process's exit code.

    0 for success, 2 for an error that is the user's to mend (one line on stderr), 130 after
    Ctrl-C, or what the command itself returns. A bug still ends in a traceback.
    """
    logging.basicConfig(
        level=os.environ.get("LOGLEVEL", "INFO").upper(),
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, markup=False)],
    )
    # Every request to an endpoint would otherwise be a line of its own.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return command(argv) or 0
    except PromptDistillationError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on where it stopped\n")
        return INTERRUPTED
