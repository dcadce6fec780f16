"""How a command ends: a user's error is one line and exit code 2, not a traceback."""

import atexit
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.logging import RichHandler

from prompt_distillation.data.text import safe_for_terminal
from prompt_distillation.errors import ConfigError, PromptDistillationError

USER_ERROR = 2
INTERRUPTED = 130
READER_GONE = 141  # what a shell reports for a process that SIGPIPE ended

# A line for every request (openai 3 uses httpx2), for every plot, and for a CPU without Triton.
_CHATTY = ("httpx", "httpx2", "matplotlib", "vllm")


def run_command(
    command: Callable[[Sequence[str]], int | None], argv: Sequence[str], *, goes_on: bool = False
) -> int:
    """Run ``command(argv)`` and return the process's exit code.

    0 for success, 2 for an error that is the user's to fix (one line on stderr), 130 after
    Ctrl-C, 141 if the reader of stdout left (``| head``), or what the command itself returns.
    A bug still ends in a traceback.

    Args:
        command: gets ``argv``.
        argv: the flags, without the program's name.
        goes_on: whether the same command, run again, takes up what an interrupted one left.
    """
    try:
        _set_up_logging()
        code = command(argv) or 0
        sys.stdout.flush()
    except PromptDistillationError as error:
        # What a message quotes may come from anywhere: a file, a server, a command line.
        sys.stderr.write(f"error: {safe_for_terminal(' '.join(str(error).split()))}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        again = "; run the same command again to continue where it stopped" if goes_on else ""
        sys.stderr.write(f"interrupted{again}\n")
        return INTERRUPTED
    except BrokenPipeError:
        if not _stdout_is_gone():
            raise
        return READER_GONE
    finally:
        # Registered last, it runs first: Ctrl-C while the libraries take themselves down would only
        # print their tracebacks.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return code


def _set_up_logging() -> None:
    """Log to stderr: coloured on a terminal, one plain line a record in a file or pipe."""
    level = os.environ.get("LOGLEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"the environment's LOGLEVEL is {level!r}; try INFO, DEBUG or WARNING")
    console = Console(stderr=True)
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    # On every CPU, about a kernel that would only be downloaded (bitsandbytes 0.50.2).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _stdout_is_gone() -> bool:
    """Whether stdout is the pipe that broke; if so, what is still buffered goes nowhere."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # replaced by something in memory
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python would flush again on its way out, and complain (docs of the signal module).
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True
