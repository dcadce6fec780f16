"""Training that goes wrong: losses that are no numbers, damaged checkpoints, two at once."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_cases.fixtures import CHECKPOINT_FLAGS, chat_row, input_lines, train_flags
from hostile_cases.text_is_data import Act
from hostile_cases.trial import Case, Trial, require


def cases() -> Iterator[Case]:
    """All of them."""
    for group, named in (("loss", _losses()), ("checkpoints", _checkpoints()), ("locks", _locks())):
        for name, act in named:
            yield Case(group=group, name=name, act=act)


# --- a loss that is no number


def _losses() -> Iterator[tuple[str, Act]]:
    for value in ("nan", "inf", "-inf", "3e38"):
        yield f"weights-{value}", _from_spoilt(value)
        yield f"weights-{value}-checkpoints", _from_spoilt(value, *CHECKPOINT_FLAGS)
    yield "weights-nan-no-lora", _from_spoilt("nan", "--use_lora=false")
    yield "weights-nan-one-row-a-step", _from_spoilt("nan", "--per_device_train_batch_size=1")
    yield "weights-nan-accumulated", _from_spoilt("nan", "--gradient_accumulation_steps=2")
    yield "half-precision", _explodes("--dtype=float16")
    yield "half-precision-no-lora", _explodes("--dtype=float16", "--use_lora=false")
    yield "half-precision-large-alpha", _explodes("--dtype=float16", "--lora_alpha=60000")


def _from_spoilt(value: str, *flags: str) -> Act:
    def act(trial: Trial) -> None:
        student = trial.things.spoilt_student(value)
        own = train_flags(student, trial.things.rows, "run")
        more = flags if "--max_steps=4" in flags else ("--max_steps=3", *flags)
        outcome = trial.run("train", *own, "--logging_steps=1", *more)
        outcome.refuses("step 1", ("row", "rows"), ("nan", "inf", "finite", "not a number"))
        require("loss 0.0000" not in outcome.said, "it logs a loss of 0.0000")
        require(
            not (trial.folder / "run/training_manifest.json").exists(), "it says it is finished"
        )

    return act


def _explodes(*flags: str) -> Act:
    """The first steps are fine, and what they saved stays."""

    def act(trial: Trial) -> None:
        own = train_flags(trial.things.student, trial.things.rows, "run")
        steps = ["--max_steps=6", *CHECKPOINT_FLAGS[1:], "--max_grad_norm=0", "--warmup_ratio=0"]
        outcome = trial.run("train", *own, *steps, "--learning_rate=1", *flags)
        if outcome.code == 0:  # it may have learnt nothing, but every loss must be a number
            history = json.loads((trial.folder / "run/log_history.json").read_text())
            require(
                all(isinstance(e.get("loss", 0.0), float) for e in history), "a loss is missing"
            )
            return
        outcome.refuses("step", ("row", "rows"), ("nan", "inf", "finite", "not a number"))
        require(list((trial.folder / "run").glob("checkpoint-*")), "no good checkpoint was kept")

    return act


# --- a damaged checkpoint

PARTS = (
    "optimizer.pt", "scheduler.pt", "adapter_model.safetensors", "trainer_state.json",
    "adapter_config.json", "rng_state.pth", "training_args.bin",
)  # fmt: skip


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scramble(path: Path) -> None:
    path.write_bytes(b"\x00garbage\xff" * (path.stat().st_size // 9 + 1))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": _halve,
    "garbage": _scramble,
    "gone": lambda path: path.unlink(),
}
NEEDED = ("optimizer.pt", "scheduler.pt", "adapter_model.safetensors", "trainer_state.json")


def _unfinished(trial: Trial) -> Path:
    """A run of four steps that was killed after its last checkpoint, before its result."""
    run = trial.copy(trial.things.adapter, "run", ours=True)
    for path in run.iterdir():
        if path.is_file() and path.name not in ("run.json", "loss.csv"):
            path.unlink()
    return run


def _checkpoints() -> Iterator[tuple[str, Act]]:
    for part in PARTS:
        for damage, harm in DAMAGES.items():
            yield f"newest-{part}-{damage}", _resumes(part, harm, needed=part in NEEDED)
    for part in NEEDED:
        yield f"two-newest-{part}", _resumes(part, _halve, needed=True, how_many=2)
        yield f"all-{part}", _none_left(part)
    yield "newest-state-null", _state("null")
    yield "newest-state-list", _state("[]")
    yield "newest-state-empty-object", _state("{}")
    yield "newest-state-other-step", _state('{"global_step": "four"}')
    yield "named-and-damaged", _named_one
    yield "named-and-not-there", _named_missing
    yield "killed-and-resumed", _killed_and_resumed


def _train_again(trial: Trial, *flags: str):  # type: ignore[no-untyped-def]
    own = train_flags(trial.things.student, trial.things.rows, "run")
    return trial.run("train", *own, *CHECKPOINT_FLAGS, *flags)


def _resumes(part: str, harm: Callable[[Path], object], *, needed: bool, how_many: int = 1) -> Act:
    def act(trial: Trial) -> None:
        run = _unfinished(trial)
        for step in range(4, 4 - how_many, -1):
            path = run / f"checkpoint-{step}" / part
            require(path.exists(), f"the case is out of date: no {part} in a checkpoint")
            harm(path)
        outcome = _train_again(trial).works()
        if needed:
            outcome.says("checkpoint-4", f"going on from run/checkpoint-{4 - how_many}")

    return act


def _none_left(part: str) -> Act:
    def act(trial: Trial) -> None:
        run = _unfinished(trial)
        for step in range(1, 5):
            _halve(run / f"checkpoint-{step}" / part)
        _train_again(trial).refuses_or_works("checkpoint").says("checkpoint")

    return act


def _state(content: str) -> Act:
    def act(trial: Trial) -> None:
        run = _unfinished(trial)
        (run / "checkpoint-4/trainer_state.json").write_text(content)
        _train_again(trial).works("checkpoint-4", "going on from run/checkpoint-3")

    return act


def _named_one(trial: Trial) -> None:
    run = _unfinished(trial)
    _halve(run / "checkpoint-2/optimizer.pt")
    _train_again(trial, "--resume_from_checkpoint=run/checkpoint-2").refuses("checkpoint-2")


def _named_missing(trial: Trial) -> None:
    _unfinished(trial)
    _train_again(trial, "--resume_from_checkpoint=run/checkpoint-9").refuses("checkpoint-9")


def _killed_and_resumed(trial: Trial) -> None:
    own = train_flags(trial.things.student, trial.things.rows, "run")
    steps = ["--max_steps=12", *CHECKPOINT_FLAGS[1:]]
    for step in (2, 5, 8):
        running = trial.start("train", *own, *steps)
        done = trial.folder / f"run/checkpoint-{step}/trainer_state.json"
        running.wait_for(done.exists, 60.0)
        running.signal(signal.SIGKILL)
        running.wait(10.0)
    trial.run("train", *own, *steps).works("going on from")
    (trial.folder / "run/adapter_model.safetensors").stat()


# --- two at once


def _locks() -> Iterator[tuple[str, Act]]:
    yield "train/same-command", _second_training()
    yield "train/overwrite", _second_training("--overwrite")
    yield "train/through-a-link", _second_training(output_dir="alias/run")
    yield "train/other-rows", _second_training("--seed=5")
    yield "train/no-resume", _second_training("--resume_from_checkpoint=none")
    yield "train/killed-first", _after_a_kill
    yield "create_data/same-command", _second_labelling("out.jsonl")
    yield "create_data/through-a-link", _second_labelling("alias/out.jsonl")
    yield "create_data/overwrite", _second_labelling("out.jsonl", "--overwrite")
    yield "create_data/sharded", _second_labelling("out.jsonl", "--num_shards=2")
    yield "create_data/merge", _second_labelling("out.jsonl", "--merge")


def _first_training(trial: Trial):  # type: ignore[no-untyped-def]
    rows = "".join(map(chat_row, input_lines(64).splitlines()))
    trial.write("rows.jsonl", rows)
    own = train_flags(trial.things.student, "rows.jsonl", "run")
    running = trial.start("train", *own, "--max_steps=3000", *CHECKPOINT_FLAGS[1:])
    first = trial.folder / "run/checkpoint-1/trainer_state.json"
    require(running.wait_for(first.exists, 90.0), "the first training did not start")
    return running


def _second_training(*flags: str, output_dir: str = "run") -> Act:
    def act(trial: Trial) -> None:
        trial.link("alias", ".")
        running = _first_training(trial)
        own = train_flags(trial.things.student, "rows.jsonl", output_dir)
        second = trial.run("train", *own, "--max_steps=3000", *CHECKPOINT_FLAGS[1:], *flags)
        require(running.code is None, f"the first training ended: {bytes(running.err[-300:])!r}")
        second.refuses(("held by", "running", "in use", "another process"))

    return act


def _after_a_kill(trial: Trial) -> None:
    running = _first_training(trial)
    running.signal(signal.SIGKILL)
    running.wait(10.0)
    shutil.rmtree(trial.folder / "run")
    own = train_flags(trial.things.student, "rows.jsonl", "run")
    trial.run("train", *own, "--max_steps=1", "--save_strategy=no").works()


def _second_labelling(output: str, *flags: str) -> Act:
    from hostile_cases.fixtures import server_flags
    from hostile_cases.scripted_server import Reply, ScriptedServer, always, completion
    from hostile_cases.text_is_data import TASK

    def act(trial: Trial) -> None:
        trial.link("alias", ".")
        trial.write("in.txt", input_lines(3))
        server = ScriptedServer(always(Reply(body=completion(), wait_seconds=60.0)))
        trial.on_close(server.close)
        own = ["--input_file=in.txt", TASK, *server_flags(server.url)]
        running = trial.start("create_data", *own, "--output_file=out.jsonl")
        require(running.wait_for(lambda: server.asked, 90.0), "the first did not start")
        second = trial.run("create_data", *own, f"--output_file={output}", *flags)
        second.refuses(("held by", "running", "in use", "another process"))
        require(running.code is None, "the first labelling ended")

    return act
