"""Kill a run at random moments, resume it each time, and compare with one that was left alone.

    python benchmarks/training_resume.py --train_file data/prompt_distillation_lang.jsonl

Prints the largest difference of the loss curves and of the final adapters.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file


def main() -> None:
    """Run once undisturbed, once with kills, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", default="data/prompt_distillation_lang.jsonl")
    parser.add_argument("--model_name", default="example-models/student")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        run(options, whole).wait()
        done = 0
        while done < options.kills:
            steps = newest_step(killed)
            process = run(options, killed)
            # Past the last checkpoint by a random time, so that some steps are lost.
            while process.poll() is None and newest_step(killed) <= steps:
                time.sleep(0.05)
            time.sleep(generator.uniform(0, 2))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            done += 1
            print(f"kill {done}: newest checkpoint {newest_step(killed)}")
        run(options, killed).wait()
        curves = [losses(folder) for folder in (whole, killed)]
        apart = max(abs(curves[0][step] - curves[1][step]) for step in curves[0])
        ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (whole, killed))
        weights = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
        print(f"{done} kills; {len(curves[0])} and {len(curves[1])} steps logged")
        print(f"largest difference of the losses {apart:.2e}, of the adapters {weights:.2e}")


def run(options: argparse.Namespace, output_dir: Path) -> "subprocess.Popen[bytes]":
    """Start the train command."""
    return subprocess.Popen(
        [
            sys.executable, "train_sft_trl.py", "--train_file", options.train_file,
            "--model_name", options.model_name, "--output_dir", str(output_dir),
            "--gradient_checkpointing", "false", "--report_to", "none", "--save_steps", "5",
            "--held_out_answers", "0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def newest_step(folder: Path) -> int:
    """The newest checkpoint that was written to its end; 0 without one."""
    states = folder.glob("checkpoint-*/trainer_state.json")
    return max((int(state.parent.name.rpartition("-")[2]) for state in states), default=0)


def losses(folder: Path) -> dict[int, float]:
    """Step -> training loss."""
    history = json.loads((folder / "log_history.json").read_text())
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


if __name__ == "__main__":
    main()
