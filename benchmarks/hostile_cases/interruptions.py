"""Full disks, kills, signals, hostile journals, and sizes that nobody has."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_cases.fixtures import CHECKPOINT_FLAGS, input_lines, server_flags, train_flags
from hostile_cases.scripted_server import Reply, ScriptedServer, completion, labels
from hostile_cases.text_is_data import TASK, Act, label, read_rows, serving
from hostile_cases.trial import Case, Outcome, Trial, require


def cases() -> Iterator[Case]:
    """All of them."""
    for group, named in (
        ("disk", _disks()), ("journal", _journals()), ("kills", _kills()), ("sizes", _sizes()),
    ):  # fmt: skip
        for name, act in named:
            yield Case(group=group, name=name, act=act)


# --- full disks

LIMITS = (0, 1, 200, 2_000, 20_000)
LARGER = (60_000, 100_000, 150_000, 250_000)
"""Bytes after which a file cannot grow, and every write fails: each command meets it elsewhere."""


def _disks() -> Iterator[tuple[str, Act]]:
    for size in LIMITS:
        yield f"create_data/limit-{size}", _label_within(size)
        yield f"evaluate/limit-{size}", _evaluate_within(size)
        yield f"report/limit-{size}", _report_within(size)
        yield f"review_labels/limit-{size}", _review_within(size)
    for size in (*LIMITS, *LARGER):
        yield f"train/limit-{size}", _train_within(size)
        yield f"export/limit-{size}", _export_within(size)
    for size in (16, 64, 128, 256, 512, 1024):
        yield f"train/disk-{size}k", _on_small_disk(size, _train_on)
    for size in (4, 8, 16, 64):
        yield f"create_data/disk-{size}k", _on_small_disk(size, _label_on)
        yield f"evaluate/disk-{size}k", _on_small_disk(size, _evaluate_on)
    for size in (64, 256, 512):
        yield f"export/disk-{size}k", _on_small_disk(size, _export_on)
        yield f"report/disk-{size}k", _on_small_disk(size, _report_on)


FULL = ("space", "too large", "cannot write", "quota", "full")


def _ends_full(outcome: Outcome, trial: Trial, folder: Path | None = None) -> None:
    """It ended well, or with the reason, and left no temporary file."""
    outcome.refuses_or_works(FULL)
    left = [
        path.name
        for path in (folder or trial.folder).rglob("*.partial*")
        if path.is_file() or {part.name for part in path.iterdir()} != {".lock"}
    ]
    # A training's own is taken up by the run that goes on.
    require(set(left) <= {".final.partial"}, f"left behind: {left}")


def _limited(size: int) -> dict[str, dict[str, int]]:
    return {"limits": {"RLIMIT_FSIZE": size}}


def _label_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines())
        server = serving(trial, labels())
        _ends_full(label(trial, server, **_limited(size)), trial)
        label(trial, server, "--held_out=0").works()
        rows = read_rows(trial.folder / "out.jsonl")
        require(len(rows) == 40, f"{len(rows)} rows of 40 after the disk had room again")

    return act


def _evaluate_flags(output: str) -> list[str]:
    return [
        "--test_file=in.txt", "--predictions_file=said.txt", "--ground_truth_file=said.txt",
        "--split=all", f"--output_file={output}", TASK,
    ]  # fmt: skip


def _evaluate_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(20))
        trial.write("said.txt", "de\n" * 20)
        outcome = trial.run("evaluate", *_evaluate_flags("result.json"), **_limited(size))
        _ends_full(outcome, trial)

    return act


def _report_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        own = [f"--result_file={trial.things.result}", "--output_file=r.html", "--model_path=none"]
        _ends_full(trial.run("report", *own, **_limited(size)), trial)

    return act


def _review_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        folder = trial.copy(trial.things.dataset.parent, "d", ours=True)
        own = ["--dataset=d/data.jsonl", TASK]
        more: dict[str, Any] = {"standard_input": b"fr\nfr\nq\n", "terminal": True}
        outcome = trial.run("review_labels", *own, **more, **_limited(size))
        _ends_full(outcome, trial, folder)

    return act


def _train_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        own = train_flags(trial.things.student, trial.things.rows, "run")
        outcome = trial.run("train", *own, *CHECKPOINT_FLAGS, **_limited(size))
        _ends_full(outcome, trial)
        if outcome.code:  # only its plots may be missing
            trial.run("train", *own, *CHECKPOINT_FLAGS).refuses_or_works("finished run")

    return act


def _export_within(size: int) -> Act:
    def act(trial: Trial) -> None:
        outcome = trial.run("export", *_export_flags(trial, "out"), **_limited(size))
        _ends_full(outcome, trial)
        if outcome.code:
            trial.run("export", *_export_flags(trial, "out")).works()

    return act


def _export_flags(trial: Trial, output: str) -> list[str]:
    return [
        f"--model_path={trial.things.adapter}", f"--rows_file={trial.things.rows}",
        "--serve=none", "--num_inputs=2", f"--output_dir={output}",
    ]  # fmt: skip


def _on_small_disk(kibibytes: int, do: Any) -> Act:
    """A real full disk, where this user may mount a small one; else the same by a limit."""

    def act(trial: Trial) -> None:
        disk = trial.folder / "disk"
        disk.mkdir()
        size = f"size={kibibytes}k"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "none", str(disk)],
            capture_output=True, check=False,
        )  # fmt: skip
        if mounted.returncode == 0:
            trial.on_close(lambda: _unmount(disk))
            outcome = do(trial, "disk", {})
        else:
            outcome = do(trial, "disk", _limited(kibibytes * 1024))
        _ends_full(outcome, trial)

    return act


def _unmount(disk: Path) -> None:
    subprocess.run(["umount", "-l", str(disk)], check=False)


def _train_on(trial: Trial, disk: str, more: dict[str, Any]) -> Outcome:
    own = train_flags(trial.things.student, trial.things.rows, f"{disk}/run")
    return trial.run("train", *own, *CHECKPOINT_FLAGS, **more)


def _label_on(trial: Trial, disk: str, more: dict[str, Any]) -> Outcome:
    trial.write("in.txt", input_lines(100))
    server = serving(trial, labels())
    return label(trial, server, f"--output_file={disk}/out.jsonl", **more)


def _evaluate_on(trial: Trial, disk: str, more: dict[str, Any]) -> Outcome:
    trial.write("in.txt", input_lines(40))
    trial.write("said.txt", "de\n" * 40)
    return trial.run("evaluate", *_evaluate_flags(f"{disk}/result.json"), **more)


def _export_on(trial: Trial, disk: str, more: dict[str, Any]) -> Outcome:
    return trial.run("export", *_export_flags(trial, f"{disk}/out"), **more)


def _report_on(trial: Trial, disk: str, more: dict[str, Any]) -> Outcome:
    own = [f"--result_file={trial.things.result}", "--model_path=none"]
    places = [f"--output_file={disk}/r.html", f"--plots_dir={disk}/plots"]
    return trial.run("report", *own, *places, **more)


# --- lines of a journal that are not ours

A_KEY = "a key of the journal's own"
SOUND = {
    "key": A_KEY, "vote": 0, "attempt": 0, "temperature": 0.15, "max_tokens": 4096,
    "text": "</think>Final Answer: fr", "finish_reason": "stop", "prompt_tokens": 7,
    "completion_tokens": 3, "seconds": 0.1,
}  # fmt: skip


NOT_COUNTED = {
    "blank", "spaces", "vote-huge", "attempt-huge", "vote-negative", "finish-odd", "tokens-huge",
    "error-number", "error-null", "text-half", "key-short", "key-long", "key-empty",
}  # fmt: skip
"""Lines that may be taken for records of another run: they change nothing, and need no word."""


def _changed(**changes: Any) -> str:
    row = {**SOUND, **changes}
    return json.dumps({key: value for key, value in row.items() if value is not ...})


def _journal_lines() -> dict[str, bytes]:
    lines = {
        "key-number": _changed(key=5), "key-null": _changed(key=None),
        "key-text": _changed(key="zz"), "key-odd": _changed(key="abc"),
        "key-list": _changed(key=["a"]), "key-empty": _changed(key=""),
        "key-short": _changed(key="00"), "key-long": _changed(key="00" * 500),
        "only-key": json.dumps({"key": A_KEY}),
        "vote-null": _changed(vote=None), "vote-text": _changed(vote="x"),
        "vote-negative": _changed(vote=-1), "vote-huge": _changed(vote=10**9),
        "attempt-null": _changed(attempt=None), "attempt-huge": _changed(attempt=10**9),
        "text-null": _changed(text=None), "text-number": _changed(text=5),
        "text-list": _changed(text=["a"]), "text-half": _changed(text="\ud83d"),
        "finish-null": _changed(finish_reason=None), "finish-odd": _changed(finish_reason="what"),
        "tokens-text": _changed(prompt_tokens="7"), "tokens-null": _changed(completion_tokens=None),
        "tokens-huge": _changed(prompt_tokens=10**30), "seconds-text": _changed(seconds="x"),
        "error-number": _changed(error=5), "error-null": _changed(error=None),
        "reasoning-list": _changed(reasoning=["x"]), "temperature-text": _changed(temperature="x"),
        "settings-alone": '{"settings": "abc"}',
        "settings-number": '{"settings": 5, "identity": {}}',
        "identity-null": '{"settings": "abc", "identity": null}',
        "identity-list": '{"settings": "abc", "identity": [1]}',
        "identity-odd": '{"settings": "abc", "identity": {"model": [1, {}]}}',
        "list": "[1, 2]", "number": "5", "null": "null", "text": '"key"', "object": "{}",
        "deep": "[" * 100_000, "cut": '{"key": "00', "blank": "", "spaces": "   ",
        "chat": '{"messages": []}', "nan": '{"key": NaN}',
    }  # fmt: skip
    found = {name: line.encode() for name, line in lines.items()}
    for part in ("vote", "attempt", "text", "finish_reason", "prompt_tokens", "seconds"):
        found[f"no-{part}"] = _changed(**{part: ...}).encode()
    found |= {
        "nul": b"\0" * 100, "binary": bytes(range(256)).replace(b"\n", b""),
        "not-utf8": b'{"key": "\xff"}', "utf-16": '{"key": 1}'.encode("utf-16"),
        "long": b"x" * 2_000_000,
    }  # fmt: skip
    return found


def _journals() -> Iterator[tuple[str, Act]]:
    for name, line in _journal_lines().items():
        yield name, _passes_over(line, counted=name not in NOT_COUNTED)
    for name in ("key-number", "no-vote", "text-null", "not-utf8"):
        yield f"{name}-as-key", _same_key(_journal_lines()[name])
        yield f"{name}-at-end", _passes_over(_journal_lines()[name], torn=True)


def _damaged_run(trial: Trial) -> tuple[Path, bytes, int]:
    """A dataset whose files are lost and whose journal is to be damaged."""
    folder = trial.copy(trial.things.dataset.parent, "d", ours=True)
    before = (folder / "data.jsonl").read_bytes()
    heldout = folder / "data.heldout.jsonl"
    count = len(before.splitlines()) + len(heldout.read_bytes().splitlines())
    for name in ("data.jsonl", "data.manifest.json"):
        (folder / name).unlink()
    return folder, before, count


def _label_again(trial: Trial) -> tuple[Outcome, ScriptedServer]:
    server = serving(trial, labels("zh"))
    own = ["--input_file=d/in.txt", "--output_file=d/data.jsonl", "--held_out=0.3", TASK]
    return trial.run("create_data", *own, *server_flags(server.url)), server


def _passes_over(hostile: bytes, *, torn: bool = False, counted: bool = True) -> Act:
    """The same dataset as before, at no cost, whatever else stands in its journal."""

    def act(trial: Trial) -> None:
        folder, before, _ = _damaged_run(trial)
        journal = folder / "data.journal.jsonl"
        first, *rest = journal.read_bytes().splitlines(keepends=True)
        line = hostile.replace(A_KEY.encode(), json.loads(rest[-1])["key"].encode())
        middle = len(rest) // 2
        places = [first, line + b"\n", *rest[:middle], line + b"\n", *rest[middle:]]
        places += [line] if torn else [line + b"\n"]
        journal.write_bytes(b"".join(places))
        outcome, server = _label_again(trial)
        outcome.works()
        require((folder / "data.jsonl").read_bytes() == before, "the dataset is another")
        require(not server.asked, f"{len(server.asked)} answers were paid for again")
        if counted:
            outcome.says(("passed over", "damaged", "torn", "other settings", "not of"))

    return act


def _same_key(line: bytes) -> Act:
    """A line in place of a good one costs that one answer, and no more."""

    def act(trial: Trial) -> None:
        folder, _, _ = _damaged_run(trial)
        journal = folder / "data.journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        lines[5] = line.replace(A_KEY.encode(), json.loads(lines[5])["key"].encode()) + b"\n"
        journal.write_bytes(b"".join(lines))
        outcome, server = _label_again(trial)
        outcome.works()
        require(len(server.asked) == 1, f"{len(server.asked)} requests for the one that is lost")

    return act


# --- kills and signals


def _kills() -> Iterator[tuple[str, Act]]:
    for number in (1, 2, 3, 5, 8, 13, 21, 34, 39):
        yield f"create_data/killed-at-{number}", _killed_at(number, signal.SIGKILL)
        yield f"create_data/interrupted-at-{number}", _killed_at(number, signal.SIGINT)
        yield f"create_data/terminated-at-{number}", _killed_at(number, signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        yield f"evaluate/{number.name}", _evaluation_stopped(number)
        yield f"train/{number.name}", _training_stopped(number)
    for delay in (0.3, 0.6, 0.9, 1.2, 1.6, 2.0):
        yield f"export/killed-after-{delay}", _export_killed(delay)


def _killed_at(number: int, how: signal.Signals) -> Act:
    """Killed while it waits for the Nth answer: the answers before it are not asked for again."""

    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines())

        def script(count: int, body: dict[str, Any]) -> Reply:
            return Reply(body=completion(), wait_seconds=60.0 if count == number else 0.0)

        server = serving(trial, script)
        own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--max_concurrency=1"]
        flags = [
            "--engine=server",
            f"--server_url={server.url}",
            "--model_name=m",
            "--held_out=0.3",
        ]
        running = trial.start("create_data", *own, *flags)
        require(running.wait_for(lambda: len(server.asked) > number, 90.0), "it did not start")
        running.signal(how)
        require(running.wait(60.0), f"{how.name} did not end it in 60 s")
        if how != signal.SIGKILL:
            trial.finish(running, codes=(130,))
        asked = len(server.asked)
        trial.run("create_data", *own, *flags).works()
        again = len(server.asked) - asked
        require(again == 40 - number, f"asked {again} times again, not {40 - number}")
        same = (trial.folder / "out.jsonl").read_bytes() == trial.things.dataset.read_bytes()
        require(same, "the dataset differs from that of a run that was left alone")

    return act


def _evaluation_stopped(how: signal.Signals) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(10))
        slow = Reply(body=completion(), wait_seconds=60.0)
        server = serving(trial, lambda number, body: slow)
        running = trial.start(
            "evaluate", "--engine=server", f"--server_url={server.url}", "--model_path=m",
            "--test_file=in.txt", "--split=all", "--output_file=result.json", TASK,
        )  # fmt: skip
        require(running.wait_for(lambda: server.asked, 90.0), "it did not start")
        running.signal(how)
        trial.finish(running, codes=(130, 143, -how), seconds=60.0)
        require(not (trial.folder / "result.json").exists(), "half a result was written")

    return act


def _training_stopped(how: signal.Signals) -> Act:
    def act(trial: Trial) -> None:
        own = train_flags(trial.things.student, trial.things.rows, "run")
        steps = ["--max_steps=3000", *CHECKPOINT_FLAGS[1:]]
        running = trial.start("train", *own, *steps)
        done = trial.folder / "run/checkpoint-2/trainer_state.json"
        require(running.wait_for(done.exists, 60.0), "it did not start")
        running.signal(how)
        trial.finish(running, codes=(130, 143, -how), seconds=60.0)
        finished = (trial.folder / "run/training_manifest.json").exists()
        require(not finished, "an interrupted run says that it is finished")

    return act


def _export_killed(delay: float) -> Act:
    def act(trial: Trial) -> None:
        own = _export_flags(trial, "out")
        running = trial.start("export", *own)
        running.ended.wait(delay)
        running.signal(signal.SIGKILL)
        running.wait(10.0)
        out = trial.folder / "out"
        if out.exists():
            require((out / "model.safetensors").exists(), "half an export has its name")
            shutil.rmtree(out)
        trial.run("export", *own).works()

    return act


# --- sizes


IMPOSSIBLE: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (
        ("--lora_rank=1000000",), ("--lora_rank=1000000000000",), ("--lora_expert_rank=10000000",),
        ("--lora_rank=-1",), ("--lora_rank=0",), ("--lora_alpha=1000000000000000000000",),
        ("--per_device_train_batch_size=1000000000000",), ("--max_length=1000000000000",),
        ("--gradient_accumulation_steps=1000000000000",), ("--num_train_epochs=1e12",),
        ("--num_train_epochs=1e300",), ("--max_steps=1000000000000000",),
        ("--learning_rate=1e300",),
        ("--warmup_ratio=5",), ("--max_length=1",), ("--max_length=0",), ("--max_length=-5",),
        ("--per_device_train_batch_size=0",), ("--held_out_answers=1000000000000",),
        ("--seed=100000000000000000000000",), ("--seed=-1",), ("--save_total_limit=0",),
        ("--logging_steps=0",),
        ("--early_stopping_patience=0",), ("--device_memory_gib=1e300",),
    ),
    "create_data": (
        ("--num_votes=1000000", "--temperature=0.7"),
        ("--num_votes=1000000000000", "--temperature=1"),
        ("--max_tokens=1000000000000",), ("--max_concurrency=1000000000",), ("--max_retries=21",),
        ("--max_retries=1000000000",), ("--num_shards=1000000000", "--shard_index=5"),
        ("--max_model_len=1000000000000000",), ("--seed=1000000000000000000000000000000",),
        ("--max_samples=1000000000000000",), ("--held_out=1",), ("--held_out=1e-300",),
        ("--request_timeout_seconds=1e300",), ("--progress_seconds=1e300",),
        ("--temperature=1e300",), ("--probe_samples=1000000000000", "--dry_run"),
        ("--max_thinking_tokens=1000000000000",), ("--price_per_gpu_hour=1e300", "--dry_run"),
        ("--tensor_parallel_size=1000000",), ("--top_p=0",), ("--min_agreement=2",),
    ),
    "evaluate": (
        ("--max_tokens=1000000000000",), ("--max_concurrency=1000000000",),
        ("--max_samples=1000000000000000",), ("--seed=1000000000000000000000000",),
        ("--temperature=1e300",), ("--min_accuracy=5",), ("--max_model_len=1000000000000000",),
        ("--tensor_parallel_size=1000000",), ("--max_samples=0",),
    ),
    "export": (("--num_inputs=1000000000000",), ("--num_inputs=0",)),
}  # fmt: skip
REFUSED = (
    "--lora_rank=1000000", "--lora_rank=1000000000000", "--lora_expert_rank=10000000",
    "--num_votes=1000000", "--num_votes=1000000000000",
)  # fmt: skip
"""What the list of promises names: refused, not survived."""
SMALL_MEMORY = 12 * 2**30


def _sizes() -> Iterator[tuple[str, Act]]:
    for command, many in IMPOSSIBLE.items():
        for flags in many:
            yield f"{command}/{flags[0].removeprefix('--')}", _sized(command, flags)


def _sized(command: str, flags: tuple[str, ...]) -> Act:
    def act(trial: Trial) -> None:
        name = flags[0].partition("=")[0].removeprefix("--")
        more: dict[str, Any] = {"limits": {"RLIMIT_AS": SMALL_MEMORY}, "seconds": 45.0}
        if command == "train":
            own = train_flags(trial.things.student, trial.things.rows, "run")
            steps = (
                [] if any("steps=10" in f or "epochs" in f for f in flags) else ["--max_steps=2"]
            )
            running = trial.start(command, *own, *steps, *flags, limits=more["limits"])
            outcome = _stopped_if_it_runs(trial, running, name)
        elif command == "export":
            outcome = trial.run(command, *_export_flags(trial, "out"), *flags, **more)
        else:
            trial.write("in.txt", input_lines(3))
            server = serving(trial, labels())
            if command == "create_data":
                outcome = label(trial, server, *flags, **more)
            else:
                outcome = trial.run(
                    command, "--engine=server", f"--server_url={server.url}", "--model_path=m",
                    "--test_file=in.txt", "--split=all", TASK, *flags, **more,
                )  # fmt: skip
        if outcome.code == 0 and flags[0] in REFUSED:
            require(False, f"{flags[0]} was not refused")
        if outcome.code == 2:
            outcome.refuses((name, "steps", "memory"))

    return act


def _stopped_if_it_runs(trial: Trial, running: Any, name: str) -> Outcome:
    """A size that only takes time may run: it is interrupted, and that must work."""
    if not running.ended.wait(15.0):
        running.signal(signal.SIGINT)
    return trial.finish(running, codes=(130,), seconds=60.0)
