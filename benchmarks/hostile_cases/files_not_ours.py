"""A command replaces or deletes only what a manifest of its own says that it wrote."""

from collections.abc import Callable, Iterator

from hostile_cases.fixtures import CHECKPOINT_FLAGS, input_lines, server_flags, train_flags
from hostile_cases.launching import ROOT
from hostile_cases.scripted_server import ScriptedServer, labels
from hostile_cases.trial import Case, Trial, require

TASK = f"--task={ROOT / 'tasks' / 'language'}"

SOMEBODYS = {
    "checkpoint-best": {"checkpoint-best/weights.bin": "months of work"},
    "checkpoint-500": {"checkpoint-500/model.safetensors": "w", "checkpoint-500/config.json": "{}"},
    "checkpoint-500-state": {"checkpoint-500/trainer_state.json": '{"global_step": 500}'},
    "readme": {"README.md": "# My project\n"},
    "loss-csv": {"loss.csv": "epoch,loss\n1,0.5\n"},
    "run-json": {"run.json": '{"started": "by another program"}'},
    "history": {"log_history.json": "[1, 2, 3]"},
    "plots": {"plots/loss.png": "not a picture", "plots/confusion_matrix.png": "nor this"},
    "pictures": {"loss.png": "a photograph", "training_loss.png": "another"},
    "adapter": {"adapter_config.json": "{}", "adapter_model.safetensors": "an adapter"},
    "model": {"config.json": '{"model_type": "llama"}', "model.safetensors": "a model"},
    "tokenizer": {"tokenizer.json": "{}", "tokenizer_config.json": "{}"},
    "manifest-of-another": {"training_manifest.json": '{"tool": "another"}'},
    "manifest-no-json": {"training_manifest.json": "not JSON at all"},
    "manifest-empty": {"training_manifest.json": ""},
    "runs-and-logs": {"runs/events.out.tfevents.1": "curves", "wandb/run-1/log.txt": "more"},
    "results": {"student.json": '{"mine": 1}', "comparison.json": '{"mine": 2}'},
    "table": {"comparison.md": "# My table\n"},
    "hidden": {".gitignore": "*.log\n"},
    "deep": {"a/b/c/notes.txt": "notes"},
}
"""A folder's name for a case, and what stands in it: each file of somebody's, none of ours."""


def cases() -> Iterator[Case]:
    """All of them."""
    for flags in ((), ("--overwrite",)):
        suffix = "+overwrite" if flags else ""
        for name in SOMEBODYS:
            yield Case(group="folders", name=f"train/{name}{suffix}", act=_train_into(name, flags))
            yield Case(group="folders", name=f"export/{name}{suffix}", act=_export_to(name, flags))
        for name in ("readme", "pictures", "plots", "model", "deep", "results", "table"):
            yield Case(group="folders", name=f"compare/{name}{suffix}", act=_compare(name, flags))
        for part in ("heldout", "records", "rejects", "manifest", "journal", "lock"):
            act = _label_beside(part, flags)
            yield Case(group="folders", name=f"create_data/{part}{suffix}", act=act)
        yield Case(group="folders", name=f"create_data/dataset{suffix}", act=_label_over(flags))
        yield Case(group="folders", name=f"report/page{suffix}", act=_report_over(flags))
        yield Case(group="folders", name=f"report/plots{suffix}", act=_report_plots(flags))
        yield Case(group="folders", name=f"evaluate/result{suffix}", act=_evaluate_over)
    for name, act in OWN.items():
        yield Case(group="folders", name=name, act=act)


def _put(trial: Trial, folder: str, name: str) -> None:
    for path, content in SOMEBODYS[name].items():
        trial.write(f"{folder}/{path}", content)


def _train_into(name: str, flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        _put(trial, "out", name)
        own = train_flags(trial.things.student, trial.things.rows, "out")
        trial.run("train", *own, "--max_steps=1", "--save_strategy=no", *flags).refuses("out")

    return act


def _export_to(name: str, flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        _put(trial, "out", name)
        trial.run("export", *_export_flags(trial, "out"), *flags).refuses("out")

    return act


def _export_flags(trial: Trial, output_dir: str) -> list[str]:
    return [
        f"--model_path={trial.things.adapter}", f"--rows_file={trial.things.rows}",
        "--serve=none", "--num_inputs=2", f"--output_dir={output_dir}",
    ]  # fmt: skip


def _compare(name: str, flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        _put(trial, "out", name)
        trial.write("in.txt", input_lines(2))
        trial.run(
            "compare", f"--teacher_model={trial.things.teacher}",
            f"--student_path={trial.things.student}", "--test_file=in.txt", "--split=all",
            "--engine=transformers", "--cells=student",
            "--latency_samples=1", "--no_score_labels", "--output_dir=out", TASK, *flags,
        ).refuses("out")  # fmt: skip

    return act


def _label_beside(part: str, flags: tuple[str, ...]) -> Callable[[Trial], None]:
    names = {"manifest": "data.manifest.json", "lock": "data.journal.lock"}

    def act(trial: Trial) -> None:
        name = names.get(part, f"data.{part}.jsonl")
        # No line feed at the end: what looks like a torn last line is somebody's.
        trial.write(name, "mine, and not a command's\nmy last line")
        trial.write("in.txt", input_lines(3))
        server = ScriptedServer(labels())
        trial.on_close(server.close)
        own = ["--input_file=in.txt", "--output_file=data.jsonl", TASK, *server_flags(server.url)]
        trial.run("create_data", *own, *flags).refuses(name)
        require(not server.asked, f"{len(server.asked)} requests were paid for")

    return act


def _label_over(flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        trial.write("data.jsonl", '{"messages": "somebody\'s own dataset"}\n')
        trial.write("in.txt", input_lines(3))
        server = ScriptedServer(labels())
        trial.on_close(server.close)
        own = ["--input_file=in.txt", "--output_file=data.jsonl", TASK, *server_flags(server.url)]
        trial.run("create_data", *own, *flags).refuses("data.jsonl")

    return act


def _report_over(flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        trial.write("report.html", "<html>my own page</html>")
        own = [f"--result_file={trial.things.result}", "--output_file=report.html"]
        trial.run("report", *own, "--model_path=none", *flags).refuses("report.html")

    return act


def _report_plots(flags: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        for name in ("confusion_matrix.png", "accuracy.png", "confusion.png", "holiday.png"):
            trial.write(f"plots/{name}", "a photograph")
        own = [f"--result_file={trial.things.result}", "--output_file=report.html"]
        # Pictures of its own may stand beside: what was there stays as it is.
        trial.run("report", *own, "--model_path=none", *flags).refuses_or_works("plots")

    return act


def _evaluate_over(trial: Trial) -> None:
    trial.write("result.json", '{"results": "of another program"}')
    trial.write("in.txt", input_lines(2))
    trial.write("said.txt", "de\nde\n")
    trial.run(
        "evaluate", "--test_file=in.txt", "--predictions_file=said.txt", "--split=all",
        "--output_file=result.json", TASK,
    ).refuses("result.json")  # fmt: skip


# --- folders of ours, with something of the user's in them


def _retrain(*flags: str, names: tuple[str, ...], code: int | None = None) -> Callable[..., None]:
    """Train again into a finished run that holds files of the user's."""

    def act(trial: Trial) -> None:
        trial.copy(trial.things.adapter, "run", ours=True)
        for name in names:
            trial.write(f"run/{name}", "mine")
        own = train_flags(trial.things.student, trial.things.rows, "run")
        outcome = trial.run("train", *own, *CHECKPOINT_FLAGS, *flags)
        require(code is None or outcome.code == code, f"exit code {outcome.code}, not {code}")

    return act


def _reexport(*flags: str, names: tuple[str, ...]) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        own = _export_flags(trial, "out")
        trial.run("export", *own, seconds=120).works()
        for name in names:
            trial.write(f"out/{name}", "mine")
        trial.run("export", *own, *flags, seconds=120)

    return act


def _reexport_own(trial: Trial) -> None:
    own = _export_flags(trial, "out")
    trial.run("export", *own, seconds=120).works()
    trial.run("export", *own, seconds=120).refuses("out", "overwrite")
    trial.run("export", *own, "--overwrite", seconds=120).works()


def _export_partial(trial: Trial) -> None:
    trial.write(".out.partial/notes.txt", "mine, in a folder whose name looks unfinished")
    trial.run("export", *_export_flags(trial, "out"), seconds=120)


def _relabel_own(trial: Trial) -> None:
    trial.copy(trial.things.dataset.parent, "d", ours=True)
    trial.write("in.txt", input_lines(5))
    server = ScriptedServer(labels("fr"))
    trial.on_close(server.close)
    own = ["--input_file=in.txt", "--output_file=d/data.jsonl", TASK, *server_flags(server.url)]
    trial.run("create_data", *own).refuses("d/data.jsonl", "overwrite")
    trial.run("create_data", *own, "--overwrite").works()


def _reevaluate_own(trial: Trial) -> None:
    result = trial.copy(trial.things.result, "result.json", ours=True)
    before = result.read_bytes()
    trial.write("in.txt", input_lines(2))
    trial.write("said.txt", "de\nde\n")
    trial.run(
        "evaluate", "--test_file=in.txt", "--predictions_file=said.txt", "--split=all",
        "--output_file=result.json", TASK,
    ).works()  # fmt: skip
    kept = [path for path in trial.folder.glob("result*.json") if path.read_bytes() == before]
    require(kept, "the earlier result is gone")


def _report_twice(trial: Trial) -> None:
    own = [f"--result_file={trial.things.result}", "--output_file=r.html", "--model_path=none"]
    trial.run("report", *own).works()
    trial.run("report", *own).refuses("r.html", "overwrite")
    trial.run("report", *own, "--overwrite").works()


def _report_beside_mine(trial: Trial) -> None:
    own = [f"--result_file={trial.things.result}", "--output_file=r.html", "--model_path=none"]
    trial.run("report", *own).works()
    trial.write("plots/holiday.png", "a photograph")
    trial.run("report", *own, "--overwrite")


def _train_into_link(trial: Trial) -> None:
    trial.write("elsewhere/thesis.txt", "mine")
    trial.link("out", "elsewhere")
    own = train_flags(trial.things.student, trial.things.rows, "out")
    trial.run("train", *own, "--max_steps=1", "--overwrite").refuses("out")


def _train_into_project(trial: Trial) -> None:
    trial.write("README.md", "# My project\n")
    trial.write("src/main.py", "print()\n")
    own = train_flags(trial.things.student, trial.things.rows, ".")
    trial.run("train", *own, "--max_steps=1", "--overwrite").refuses(
        ("output_dir", "not written by", "is there already")
    )


def _empty_folder(trial: Trial) -> None:
    (trial.folder / "out").mkdir()
    own = train_flags(trial.things.student, trial.things.rows, "out")
    trial.run("train", *own, "--max_steps=1", "--save_strategy=no").works()


def _export_into_empty(trial: Trial) -> None:
    (trial.folder / "out").mkdir()
    trial.run("export", *_export_flags(trial, "out"), seconds=120).refuses_or_works("out")


def _review_corrections(trial: Trial) -> None:
    trial.copy(trial.things.dataset.parent, "d", ours=True)
    trial.write("d/data.corrections.jsonl", "my own notes\nnothing of a command's")
    trial.run(
        "review_labels", "--dataset=d/data.jsonl", TASK,
        standard_input=b"fr\nfr\nq\n", terminal=True,
    ).refuses("data.corrections.jsonl")  # fmt: skip


OWN: dict[str, Callable[[Trial], None]] = {
    "train/own-run": _retrain(names=(), code=2),
    "train/own-run+overwrite": _retrain("--overwrite", names=(), code=0),
    "train/own-run-mine-beside": _retrain(names=("notes.txt", "checkpoint-best/w.bin")),
    "train/own-run-notes+overwrite": _retrain("--overwrite", names=("notes.txt",)),
    "train/own-run-best+overwrite": _retrain("--overwrite", names=("checkpoint-best/w.bin",)),
    "train/own-run-500+overwrite": _retrain("--overwrite", names=("checkpoint-500/w.bin",)),
    "train/link-to-mine": _train_into_link,
    "train/project": _train_into_project,
    "train/empty-folder": _empty_folder,
    "export/own+overwrite": _reexport_own,
    "export/own-notes+overwrite": _reexport("--overwrite", names=("notes.txt",)),
    "export/own-subfolder+overwrite": _reexport("--overwrite", names=("other-model/w.bin",)),
    "export/own-notes": _reexport(names=("notes.txt",)),
    "export/partial-of-mine": _export_partial,
    "export/empty-folder": _export_into_empty,
    "create_data/own+overwrite": _relabel_own,
    "evaluate/own": _reevaluate_own,
    "report/own+overwrite": _report_twice,
    "report/plots-mine-beside+overwrite": _report_beside_mine,
    "review_labels/corrections-of-mine": _review_corrections,
}
