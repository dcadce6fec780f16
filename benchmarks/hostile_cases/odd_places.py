"""Names, paths and flags that nobody expects: one line, and nothing that hangs."""

import os
from collections.abc import Callable, Iterator

from hostile_cases.fixtures import input_lines, train_flags
from hostile_cases.scripted_server import labels
from hostile_cases.text_is_data import TASK, Act, label, serving
from hostile_cases.trial import Case, Trial, require

NAMES = {
    "spaces": "my inputs .txt", "line-feed": "a\nb.txt", "tab": "a\tb.txt", "dash": "-x.txt",
    "quotes": "a'b\"c.txt", "glob": "a[1]*?.txt", "percent": "50%s%d.txt", "braces": "{x}.txt",
    "emoji": "\U0001f600.txt", "accents": "e\u0301t\u00e9.txt", "rtl": "a\u202eb.txt",
    "escape": "a\x1b[31mb.txt", "backslash": "a\\b.txt", "dollar": "$HOME.txt", "tilde": "~x.txt",
    "long": "x" * 200 + ".txt", "two-dots": "a..b.txt", "hidden": ".in.txt", "upper": "IN.TXT",
    "colon": "C:in.txt", "hash": "a#b.txt", "dollar-braces": "${x}.txt", "equals": "a=b.txt",
    "not-utf8": "a\udcff.txt", "markup": "[bold]x[/bold].txt", "markup-close": "[/red].txt",
}  # fmt: skip
"""A name of a file that holds good inputs: it must be read."""
MAY_BE_REFUSED = {NAMES["tilde"], NAMES["not-utf8"]}
"""Somebody's home folder, and a name that no JSON can hold: refused, or read, in one line."""

COMMANDS = ("create_data", "train", "evaluate", "compare", "report", "review_labels", "export")
INPUT_FLAGS = {
    "create_data": "input_file", "train": "train_file", "evaluate": "test_file",
    "compare": "test_file", "report": "result_file", "review_labels": "dataset",
    "export": "rows_file",
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for name, act in _named():
        yield Case(group="places", name=name, act=act)


def _named() -> Iterator[tuple[str, Act]]:
    for name, path in NAMES.items():
        yield f"create_data/name-{name}", _label_named(path)
        yield f"evaluate/name-{name}", _evaluate_named(path)
    for command in COMMANDS:
        for kind, make in ODD_INPUTS.items():
            yield f"{command}/input-{kind}", _odd_input(command, make)
        for name, flags in BAD_FLAGS.items():
            yield f"{command}/flag-{name}", _bad_flags(command, flags)
        yield f"{command}/help", _help(command)
    yield "cli/help", _help("cli")
    for name, words in CLI.items():
        yield f"cli/{name}", _cli(words)
    for name, output in BAD_OUTPUTS.items():
        yield f"create_data/output-{name}", _bad_output("create_data", output)
        yield f"evaluate/output-{name}", _bad_output("evaluate", output)
        yield f"train/output-{name}", _bad_output("train", output)
        yield f"report/output-{name}", _bad_output("report", output)


def _label_named(path: str) -> Act:
    def act(trial: Trial) -> None:
        trial.write(path, input_lines(3))
        server = serving(trial, labels())
        outcome = label(trial, server, f"--input_file={path}")
        require(server.asked or path in MAY_BE_REFUSED, f"nothing was asked: {outcome.error}")

    return act


def _evaluate_named(path: str) -> Act:
    def act(trial: Trial) -> None:
        trial.write(path, input_lines(3))
        trial.write("said.txt", "de\n" * 3)
        outcome = trial.run(
            "evaluate", f"--test_file={path}", "--predictions_file=said.txt", "--split=all",
            f"--output_file={path}.json", TASK,
        )  # fmt: skip
        if path not in MAY_BE_REFUSED:
            outcome.works()
            require((trial.folder / f"{path}.json").exists(), "the result has another name")

    return act


def _folder(trial: Trial) -> None:
    (trial.folder / "odd.jsonl").mkdir()


def _loop(trial: Trial) -> None:
    trial.link("odd.jsonl", "odd.jsonl")


def _dangling(trial: Trial) -> None:
    trial.link("odd.jsonl", "nowhere.jsonl")


def _pipe(trial: Trial) -> None:
    os.mkfifo(trial.folder / "odd.jsonl")


def _device(trial: Trial) -> None:
    trial.link("odd.jsonl", "/dev/null")


def _empty(trial: Trial) -> None:
    trial.write("odd.jsonl", b"")


ODD_INPUTS: dict[str, Callable[[Trial], None]] = {
    "missing": lambda trial: None, "folder": _folder, "loop": _loop, "dangling": _dangling,
    "pipe": _pipe, "device": _device, "empty": _empty,
}  # fmt: skip


def _odd_input(command: str, make: Callable[[Trial], None]) -> Act:
    def act(trial: Trial) -> None:
        make(trial)
        flags = [f"--{INPUT_FLAGS[command]}=odd.jsonl"]
        if command == "train":
            flags += [f"--model_name={trial.things.student}", "--report_to=none"]
        elif command == "export":
            flags += [f"--model_path={trial.things.adapter}", "--serve=none"]
        elif command == "compare":
            flags += [f"--student_path={trial.things.student}", TASK, "--split=all"]
        elif command != "report":
            flags.append(TASK)
        if command == "evaluate":
            flags += ["--model_path=none", f"--base_model={trial.things.student}", "--split=all"]
        terminal = command == "review_labels"
        named = ("odd.jsonl", "odd.records.jsonl", "null.records.jsonl")
        trial.run(command, *flags, seconds=45.0, terminal=terminal).refuses(named)

    return act


BAD_FLAGS: dict[str, tuple[str, ...]] = {
    "unknown": ("--nonsense",),
    "misspelt": ("--sed", "5"),
    "no-value": ("--config",),
    "config-missing": ("--config=nothing.yaml",),
    "config-folder": ("--config=.",),
    "config-empty-name": ("--config=",),
    "stray": ("stray",),
    "half-character": ("--\udcff",),
    "control": ("--x\x1b[31m\n",),
    "empty": ("",),
    "equals": ("--=5",),
}


def _bad_flags(command: str, flags: tuple[str, ...]) -> Act:
    def act(trial: Trial) -> None:
        trial.run(command, *flags, seconds=45.0).refuses()

    return act


def _help(command: str) -> Act:
    def act(trial: Trial) -> None:
        trial.run(command, "--help").works("usage")

    return act


CLI: dict[str, tuple[str, ...]] = {
    "nothing": (), "unknown-command": ("distil",), "flag-first": ("--seed=5",),
    "create-data-nonsense": ("create-data", "--nonsense"), "train-nonsense": ("train", "--sed=1"),
    "evaluate-nonsense": ("evaluate", "--test_file=none.txt"), "report-missing": ("report",),
    "compare-nonsense": ("compare", "--cells=x"), "control": ("\x1b[31m",), "half": ("\udcff",),
}  # fmt: skip


def _cli(words: tuple[str, ...]) -> Act:
    def act(trial: Trial) -> None:
        if not words:
            outcome = trial.start("cli")
            require(outcome.wait(30.0) and outcome.code == 2, f"exit code {outcome.code}")
            return
        trial.run("cli", *words).refuses()

    return act


BAD_OUTPUTS = {
    "folder": "folder.jsonl", "under-a-file": "file.txt/out.jsonl", "loop": "loop.jsonl",
    "pipe": "pipe.jsonl", "device": "/dev/full", "null-device": "/dev/null",
    "long": "x" * 300 + ".jsonl", "empty": "", "under-proc": "/proc/nothing/out.jsonl",
    "half-character": "a\udcff/out.jsonl",
}  # fmt: skip


def _bad_output(command: str, output: str) -> Act:
    flag = {"train": "output_dir", "report": "output_file"}.get(command, "output_file")

    def act(trial: Trial) -> None:
        (trial.folder / "folder.jsonl").mkdir()
        trial.write("folder.jsonl/mine.txt", "mine")
        trial.write("file.txt", "mine")
        trial.give_up(trial.link("loop.jsonl", "loop.jsonl"))  # it leads nowhere
        os.mkfifo(trial.folder / "pipe.jsonl")
        trial.write("in.txt", input_lines(2))
        trial.write("said.txt", "de\nde\n")
        if command == "create_data":
            outcome = label(trial, serving(trial, labels()), f"--{flag}={output}", seconds=45.0)
        elif command == "evaluate":
            outcome = trial.run(
                command, "--test_file=in.txt", "--predictions_file=said.txt", "--split=all", TASK,
                f"--{flag}={output}", seconds=45.0,
            )  # fmt: skip
        elif command == "train":
            own = train_flags(trial.things.student, trial.things.rows, output)
            outcome = trial.run(command, *own, "--max_steps=1", "--save_strategy=no", seconds=45.0)
        else:
            own = [f"--result_file={trial.things.result}", "--model_path=none"]
            outcome = trial.run(command, *own, f"--{flag}={output}", seconds=45.0)
        if output not in ("a\udcff/out.jsonl", "loop.jsonl"):
            outcome.refuses()

    return act
