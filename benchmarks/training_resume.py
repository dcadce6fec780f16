"""Kill runs at random steps, resume each, and compare with a run that was left alone.

    OMP_NUM_THREADS=1 python benchmarks/training_resume.py        # ten kills

Each of the runs is the train command in a process of its own. It is ended by SIGKILL a random
moment after a random step was logged, so some kills fall between checkpoints and some into the
writing of one, and is started again with the same flags (`--resume_from_checkpoint auto`).
Compared are every logged training loss, gradient norm and held-out figure, and every tensor of the
adapter. Exit code 1: something differs by more than the tolerance.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

ROWS, EPOCHS, HELD_OUT = 240, 4, 32
STEPS = ROWS * EPOCHS // 16
FIGURES = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")
TOLERANCE = 1e-6


def main() -> int:
    """One run undisturbed, then kill and resume; print and judge the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", type=Path, default="data/prompt_distillation_lang.jsonl")
    parser.add_argument("--model_name", default="example-models/student")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_file = take_rows(options.train_file, folder)
        run(options.model_name, train_file, folder / "whole").communicate()
        for kill in range(1, options.kills + 1):
            output_dir = folder / f"killed-{kill}"
            at_least = generator.randint(1, STEPS - 1)
            process = run(options.model_name, train_file, output_dir)
            kill_after(process, output_dir, at_least, delay=generator.uniform(0, 0.3))
            killed_at, kept = last_logged_step(output_dir), newest_checkpoint(output_dir)
            printed, _ = run(options.model_name, train_file, output_dir).communicate()
            if (f"checkpoint-{kept}" in printed.replace("\n", "")) != (kept > 0):
                raise SystemExit(f"resumed from another place than checkpoint {kept}:\n{printed}")
            apart = differences(folder / "whole", output_dir)
            worst = {key: max(value, worst.get(key, 0.0)) for key, value in apart.items()}
            figures = ", ".join(f"{key} {value:.1e}" for key, value in apart.items())
            print(f"kill {kill}: at step {killed_at}, resumed at {kept}: {figures}", flush=True)
    print("largest: " + ", ".join(f"{key} {value:.1e}" for key, value in worst.items()))
    return int(max(worst.values()) > TOLERANCE)


def take_rows(source: Path, folder: Path) -> Path:
    """The first rows of the dataset, and of its held-out rows beside it."""
    for path, count in ((source, ROWS), (source.with_suffix(".heldout.jsonl"), HELD_OUT)):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        suffix = "".join(path.suffixes)
        (folder / f"rows{suffix}").write_text("".join(lines), encoding="utf-8")
    return folder / f"rows{source.suffix}"


def run(model: str, train_file: Path, output_dir: Path) -> "subprocess.Popen[str]":
    """Start the train command."""
    return subprocess.Popen(
        [
            sys.executable, "train_sft_trl.py", "--train_file", train_file, "--model_name", model,
            "--output_dir", output_dir, "--num_train_epochs", str(EPOCHS),
            "--learning_rate", "1e-3", "--gradient_checkpointing", "false", "--report_to", "none",
            "--save_steps", "10", "--eval_steps", "20", "--held_out_answers", str(HELD_OUT),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def kill_after(
    process: "subprocess.Popen[str]", output_dir: Path, step: int, *, delay: float
) -> None:
    """SIGKILL once ``step`` was logged and ``delay`` seconds went by."""
    while last_logged_step(output_dir) < step:
        if process.poll() is not None:
            raise SystemExit(f"the run ended before it was killed:\n{process.communicate()[0]}")
        time.sleep(0.02)
    time.sleep(delay)
    process.kill()
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the run was not killed: exit code {process.returncode}")


def last_logged_step(output_dir: Path) -> int:
    """The last whole line of the table of losses; 0 before there is one."""
    path = output_dir / "loss.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return int(lines[-1].partition(",")[0]) if lines else 0


def newest_checkpoint(output_dir: Path) -> int:
    """Step of the newest checkpoint that was written to its end; 0 without one."""
    states = output_dir.glob("checkpoint-*/trainer_state.json")
    return max((int(state.parent.name.rpartition("-")[2]) for state in states), default=0)


def differences(whole: Path, resumed: Path) -> dict[str, float]:
    """Figure -> largest absolute difference over the run; of the adapter over all its numbers."""
    first, second = (json.loads((f / "log_history.json").read_text()) for f in (whole, resumed))
    apart = {}
    for name in FIGURES:
        ours, theirs = ({e["step"]: e[name] for e in log if name in e} for log in (first, second))
        if ours.keys() != theirs.keys() or not ours:
            raise SystemExit(f"{name} was logged at other steps: {sorted(ours)}, {sorted(theirs)}")
        apart[name] = max(abs(ours[step] - theirs[step]) for step in ours)
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (whole, resumed))
    if ours.keys() != theirs.keys():
        raise SystemExit("the adapters hold other tensors")
    apart["adapter"] = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    return apart


if __name__ == "__main__":
    sys.exit(main())
