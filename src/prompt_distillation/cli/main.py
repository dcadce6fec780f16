"""The `prompt-distillation` command: one word per step, each a module of this folder."""

import importlib
import sys
from collections.abc import Sequence

from prompt_distillation import __version__
from prompt_distillation.cli.running import USER_ERROR, run_command

COMMANDS = {
    "init": ("init", "write a folder to start from: a task, inputs and recipes"),
    "generate-inputs": ("generate_inputs", "make inputs: from templates, or with a model"),
    "inspect-data": (
        "inspect_data",
        "say what is in inputs and datasets, and what would spoil a run",
    ),
    "create-data": ("create_data", "label inputs with the teacher"),
    "train": ("train", "fine-tune the student on the labels"),
    "evaluate": ("evaluate", "measure a model on held-out inputs"),
    "improve": ("improve", "label what the student is least sure of, train on, measure; in rounds"),
    "compare": ("compare", "measure teacher and student side by side: accuracy, latency, cost"),
    "judge": ("judge", "let a model compare the answers of student and teacher"),
    "chat": ("chat", "talk to the teacher and to the student, side by side"),
    "probe": (
        "probe",
        "measure what automatic scores of texts miss: character, pressure, forgetting",
    ),
    "review-labels": ("review_labels", "check labels that may be wrong, in the terminal"),
    "report": ("report", "show what was measured: an HTML page, pictures, W&B, a model card"),
    "export": ("export_model", "merge an adapter into a checkpoint that vLLM serves, and test it"),
    "serve": ("serve", "serve a student with vLLM's OpenAI-compatible server"),
    "doctor": ("doctor", "say what this machine has and which recipe fits"),
}
GO_ON = {"generate-inputs", "create-data", "train", "improve", "judge"}
"""Commands that continue where they stopped when they are run again after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command named first; exits with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_usage())
        sys.exit(0 if arguments else USER_ERROR)
    if arguments[0] == "--version":
        sys.stdout.write(f"prompt-distillation {__version__}\n")
        sys.exit(0)
    name, *rest = arguments
    if name not in COMMANDS:
        sys.stderr.write(f"error: unknown command {name!r}; known are {', '.join(COMMANDS)}\n")
        sys.exit(USER_ERROR)
    sys.argv[0] = f"prompt-distillation {name}"
    sys.exit(_run(name, rest))


def run_script(name: str) -> int:
    """Run a command for a script of the checkout, with the script's arguments; its exit code."""
    return _run(name, sys.argv[1:])


def _run(name: str, arguments: Sequence[str]) -> int:
    # Imported only now: each command brings its own libraries, and --help must answer at once.
    module = importlib.import_module(f"prompt_distillation.cli.{COMMANDS[name][0]}")
    return run_command(module.main, arguments, goes_on=name in GO_ON)


def _usage() -> str:
    lines = [f"  {name:<17}{text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: prompt-distillation COMMAND [--help] [flags]   (or --version)\n\n"
        "Distil a thinking model under a long prompt into a non-thinking model with no prompt.\n\n"
        + "\n".join(lines)
        + "\n"
    )
