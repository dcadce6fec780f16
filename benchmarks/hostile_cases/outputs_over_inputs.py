"""An output that is, contains or lies inside an input is refused, through links too."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hostile_cases.fixtures import chat_row, input_lines, server_flags, train_flags
from hostile_cases.launching import ROOT
from hostile_cases.scripted_server import ScriptedServer, labels
from hostile_cases.trial import Case, Trial, require

TASK = f"--task={ROOT / 'tasks' / 'language'}"
JSON_LINE = '{"text": "Das ist ein Satz.", "label": "de"}\n'


@dataclass(frozen=True, kw_only=True)
class Clash:
    """One command whose output stands on an input of its own.

    Attributes:
        name: of the case.
        command: of `launching.COMMANDS`.
        flags: of the command; ``{student}`` and its like are filled in.
        files: of the user's, by name.
        links: name -> target; a target that starts with ``=`` makes a hard link.
        things: a thing's name -> where a copy of it stands as the user's.
    """

    name: str
    command: str
    flags: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """All of them, each without and with ``--overwrite`` where the command has it."""
    for clash in (*_labelling(), *_evaluating(), *_reporting(), *_exporting(), *_training()):
        for overwrite in (False, True):
            if overwrite and clash.command == "evaluate":
                continue
            suffix = "+overwrite" if overwrite else ""
            name = f"{clash.command}/{clash.name}{suffix}"
            yield Case(group="inputs", name=name, act=_act(clash, overwrite))


def _act(clash: Clash, overwrite: bool) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        for name, content in clash.files.items():
            trial.write(name, content)
        for thing, name in clash.things.items():
            trial.copy(_thing(trial, thing), name)
        for name, target in clash.links.items():
            trial.link(name, target.removeprefix("="), hard=target.startswith("="))
        server = ScriptedServer(labels())
        trial.on_close(server.close)
        places = {
            "student": trial.things.student, "teacher": trial.things.teacher,
            "rows": trial.things.rows, "adapter": trial.things.adapter,
            "result": trial.things.result,
        }  # fmt: skip
        flags = [flag.format_map(places) for flag in clash.flags]
        if clash.command == "create_data":
            flags = [*server_flags(server.url), *flags]
        flags += ["--overwrite"] if overwrite else []
        outcome = trial.run(clash.command, *flags, seconds=120).refuses()
        require("pass --overwrite" not in outcome.error, f"it advises: {outcome.error}")
        require(not server.asked, f"{len(server.asked)} requests were paid for")

    return act


def _thing(trial: Trial, name: str):  # type: ignore[no-untyped-def]
    things = trial.things
    return {
        "adapter": things.adapter, "student": things.student, "result": things.result,
        "dataset": things.dataset.parent,
    }[name]  # fmt: skip


def _labelling() -> Iterator[Clash]:
    def label(name: str, source: str, output: str, **more: object) -> Clash:
        flags = (f"--input_file={source}", f"--output_file={output}", TASK)
        return Clash(name=name, command="create_data", flags=flags, **more)  # type: ignore[arg-type]

    three = JSON_LINE * 3
    for part in ("", ".heldout", ".records", ".rejects", ".corrections", ".journal", ".gold"):
        source = f"in{part}.jsonl"
        if part != ".gold":
            yield label(f"same{part}", source, "in.jsonl", files={source: three})
    for part in (".heldout", ".records", ".rejects", ".journal"):
        source = f"real{part}.jsonl"
        links = {f"in{part}.jsonl": source}
        yield label(
            f"link-at-sidecar{part}", source, "in.jsonl", files={source: three}, links=links
        )
        linked = f"in{part}.jsonl"
        links = {"alias.jsonl": linked}
        yield label(
            f"link-to-sidecar{part}", "alias.jsonl", "in.jsonl", files={linked: three}, links=links
        )
    yield label(
        "link-to-input", "in.jsonl", "out.jsonl",
        files={"in.jsonl": three}, links={"out.jsonl": "in.jsonl"},
    )  # fmt: skip
    yield label(
        "link-to-output", "in.jsonl", "out.jsonl",
        files={"out.jsonl": three}, links={"in.jsonl": "out.jsonl"},
    )  # fmt: skip
    yield label(
        "hard-link", "in.jsonl", "out.jsonl",
        files={"in.jsonl": three}, links={"out.jsonl": "=in.jsonl"},
    )  # fmt: skip
    yield label(
        "linked-folder", "real/in.jsonl", "alias/in.jsonl",
        files={"real/in.jsonl": three}, links={"alias": "real"},
    )  # fmt: skip
    yield label(
        "linked-folder-sidecar", "real/x.heldout.jsonl", "alias/x.jsonl",
        files={"real/x.heldout.jsonl": three}, links={"alias": "real"},
    )  # fmt: skip
    yield label("other-spelling", "in.jsonl", "./sub/../in.jsonl",
                files={"in.jsonl": three, "sub/x.txt": "x"})  # fmt: skip
    gold = '{"label": "de"}\n' * 3
    text = {"in.txt": input_lines(3), "in.gold.jsonl": gold}
    yield label("gold-file", "in.txt", "in.gold.jsonl", files=text)
    held = {"in.txt": input_lines(3), "in.gold.jsonl": gold}
    yield label(
        "gold-file-as-sidecar", "in.txt", "out.jsonl",
        files=held, links={"out.heldout.jsonl": "in.gold.jsonl"},
    )  # fmt: skip
    task = {
        "t/task.yaml": "name: t\nkind: generation\nprompt_file: p.jsonl\n",
        "t/p.jsonl": "Speak.",
    }
    yield Clash(
        name="prompt-file", command="create_data", files={**task, "in.txt": input_lines(2)},
        flags=("--task=t", "--input_file=in.txt", "--output_file=t/p.jsonl"),
    )  # fmt: skip
    yield Clash(
        name="config-file", command="create_data",
        files={"c.jsonl": "held_out: 0.2\n", "in.txt": input_lines(2)},
        flags=("--config=c.jsonl", TASK, "--input_file=in.txt", "--output_file=c.jsonl"),
    )  # fmt: skip


def _evaluating() -> Iterator[Clash]:
    files = {
        "in.jsonl": JSON_LINE * 3, "gold.jsonl": '{"label": "de"}\n' * 3,
        "said.jsonl": '{"predicted": "de"}\n' * 3, "trained.jsonl": chat_row("Ein anderer Satz."),
        "trained.heldout.jsonl": chat_row("Noch einer."), "in.csv": "text\nDas ist ein Satz.\n",
        "config.yaml": "quiet: true\n",
    }  # fmt: skip
    flags = (
        "--test_file=in.jsonl", "--ground_truth_file=gold.jsonl", "--predictions_file=said.jsonl",
        "--train_data_file=trained.jsonl", "--split=all", "--config=config.yaml", "--task=t",
    )  # fmt: skip
    yaml = (ROOT / "tasks/language/task.yaml").read_text(encoding="utf-8")
    files |= {"t/task.yaml": yaml, "t/prompt.md": "Label it."}
    own = [name for name in files if name not in {"in.csv"}]
    for name in own:
        label = name.replace("/", "-")
        yield Clash(
            name=f"same-{label}", command="evaluate", files=files,
            flags=(*flags, f"--output_file={name}"),
        )  # fmt: skip
        yield Clash(
            name=f"link-{label}", command="evaluate", files=files, links={"out.json": name},
            flags=(*flags, "--output_file=out.json"),
        )  # fmt: skip
    for name in ("in.jsonl", "said.jsonl", "trained.jsonl"):
        yield Clash(
            name=f"hard-link-{name}", command="evaluate", files=files,
            links={"out.json": f"={name}"}, flags=(*flags, "--output_file=out.json"),
        )  # fmt: skip
        yield Clash(
            name=f"folder-link-{name}", command="evaluate", files=files, links={"here": "."},
            flags=(*flags, f"--output_file=here/{name}"),
        )  # fmt: skip
    yield Clash(
        name="same-baseline", command="evaluate", files=files, things={"result": "base.json"},
        flags=(*flags, "--baseline=base.json", "--max_drop=0.1", "--output_file=base.json"),
    )  # fmt: skip


def _reporting() -> Iterator[Clash]:
    def report(name: str, output: str, **more: object) -> Clash:
        flags = ("--result_file=result.json", "--model_path=run", f"--output_file={output}")
        things = {"result": "result.json", "adapter": "run"}
        return Clash(name=name, command="report", flags=flags, things=things, **more)  # type: ignore[arg-type]

    yield report("result", "result.json")
    yield report("link-to-result", "page.html", links={"page.html": "result.json"})
    yield report("hard-link-to-result", "page.html", links={"page.html": "=result.json"})
    yield report("link-to-folder", "here/result.json", links={"here": "."})
    for name in ("README.md", "training_manifest.json", "log_history.json", "adapter_config.json"):
        yield report(f"model-{name}", f"run/{name}")
    yield Clash(
        name="config", command="report", things={"result": "result.json"},
        files={"c.yaml": "model_path: none\n"},
        flags=("--config=c.yaml", "--result_file=result.json", "--output_file=c.yaml"),
    )  # fmt: skip
    yield Clash(
        name="page-in-plots-name", command="report", things={"result": "plots/result.json"},
        flags=("--result_file=plots/result.json", "--output_file=plots/result.json"),
    )  # fmt: skip


def _exporting() -> Iterator[Clash]:
    def export(name: str, output: str, **more: object) -> Clash:
        flags = (
            "--model_path=models/run", "--rows_file={rows}", "--serve=none", "--num_inputs=2",
            f"--output_dir={output}",
        )  # fmt: skip
        things = {"adapter": "models/run", "student": "models/base"}
        return Clash(name=name, command="export", flags=flags, things=things, **more)  # type: ignore[arg-type]

    yield export("adapter", "models/run")
    yield export("parent-of-adapter", "models")
    yield export("inside-adapter", "models/run/merged")
    yield export("current-folder", ".")
    yield export("link-to-adapter", "out", links={"out": "models/run"})
    yield export("link-to-parent", "out", links={"out": "models"})
    yield export("through-link", "m/run", links={"m": "models"})
    yield export("dotted", "models/../models/run/../run")
    base = (
        "--model_path=models/run", "--base_model=models/base", "--rows_file={rows}", "--serve=none",
        "--num_inputs=2",
    )  # fmt: skip
    things = {"adapter": "models/run", "student": "models/base"}
    for name, output in (("base", "models/base"), ("inside-base", "models/base/merged")):
        yield Clash(name=name, command="export", flags=(*base, f"--output_dir={output}"),
                    things=things)  # fmt: skip
    yield Clash(
        name="folder-of-rows", command="export", things=things,
        files={"data/rows.jsonl": chat_row("Das ist ein Satz.")},
        flags=("--model_path=models/run", "--rows_file=data/rows.jsonl", "--serve=none",
               "--num_inputs=2", "--output_dir=data"),
    )  # fmt: skip


def _training() -> Iterator[Clash]:
    rows = "".join(chat_row(f"Das ist Satz {number}.") for number in range(4))
    files = {"data/rows.jsonl": rows, "data/rows.heldout.jsonl": chat_row("Ein Satz.")}

    def train(name: str, output: str, **more: object) -> Clash:
        flags = (
            *train_flags("base", "data/rows.jsonl", output),  # type: ignore[arg-type]
            "--max_steps=1", "--save_strategy=no",
        )  # fmt: skip
        return Clash(
            name=name, command="train", flags=flags, things={"student": "base"}, files=files, **more
        )  # type: ignore[arg-type]

    yield train("model", "base")
    yield train("inside-model", "base/run")
    yield train("link-to-model", "out", links={"out": "base"})
    yield train("link-inside-model", "out/run", links={"out": "base"})
    yield train("folder-of-rows", "data")
    yield train("link-to-rows", "out", links={"out": "data"})
    yield train("current-folder", ".")
    yield train("file", "data/rows.jsonl")
    yield train("under-file", "data/rows.jsonl" + os.sep + "run")
