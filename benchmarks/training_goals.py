r"""The goals for training Qwen3-30B-A3B's shape on one GPU, measured by one command.

    python benchmarks/training_goals.py                       # one H100 or H200
    python benchmarks/training_goals.py --compare             # and plain TRL, at equal ranks too
    python benchmarks/training_goals.py --large 256 --steps 2 \
        --model example-models/student                        # anywhere: shows that it runs

Needs only the checkout: a model of random weights, the sentences in example-data with their gold
labels, and recipes/h100-train.yaml, which is meant for a card with 80 GB. On a larger card it is
held to 80 GB too. Each setting trains twice, to warm up and by the clock; figures are the median of
the second time's steps, and the peak of torch's allocator.
"""

import argparse
import gc
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from random_model import drawn_where_missing
from rich.console import Console
from rich.table import Table
from training_profile import run_steps

HERE = Path(__file__).parent
ROOT = HERE.parent


def main() -> None:
    """Measure both step sizes and print each goal beside what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder; default: the true shape with random weights")
    parser.add_argument("--large", type=int, default=8192, help="tokens of the large step")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each setting")
    parser.add_argument("--compare", action="store_true", help="also plain TRL; needs 95 GB")
    parser.add_argument("--output_file", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder)
        model = options.model or draw_shape(folder / "shape-30b")
        flags = [
            "--config", str(ROOT / "recipes/h100-train.yaml"), "--model_name", model,
            "--train_file", str(rows), "--device_memory_gib", "80",
        ]  # fmt: skip
        # A pass holds at most the rows of a device at full length: 8 x 2,048 tokens.
        large = ["--tokens_per_step", str(options.large), "--per_device_train_batch_size", "8"]
        figures = {
            "16 rows": measure(flags, options.steps),
            "large": measure([*flags, *large], options.steps),
        }
        show(figures, options.large)
        if options.output_file:
            options.output_file.write_text(json.dumps(figures, indent=1) + "\n")
        if options.compare:
            compare(model, rows)


def write_rows(folder: Path) -> Path:
    """The example's sentences with their gold labels, as chat rows; some held out."""
    data = ROOT / "example-data"
    texts = (data / "multilingual.txt").read_text(encoding="utf-8").splitlines()
    gold = (data / "multilingual.gold.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": json.loads(line)["label"]},
                ]
            }
        )
        for text, line in zip(texts, gold, strict=True)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(rows[16:]) + "\n", encoding="utf-8")
    path.with_suffix(".heldout.jsonl").write_text("\n".join(rows[:16]) + "\n", encoding="utf-8")
    return path


def draw_shape(folder: Path) -> str:
    """The target's configuration without weights, which are drawn on the card."""
    command = [sys.executable, str(HERE / "random_model.py"), str(folder), "--config_only"]
    subprocess.run(command, check=True, cwd=ROOT)
    return str(folder)


def measure(flags: list[str], steps: int) -> dict[str, float]:
    """Figures of a step, warm."""
    with drawn_where_missing():
        for _ in range(2):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            figures = run_steps(flags, steps)
    return figures


def show(figures: dict[str, dict[str, float]], large: int) -> None:
    """Print the goals."""
    small, big = figures["16 rows"], figures["large"]
    step = 16 / small["rows_per_second"]
    tokens = small["tokens_per_second"] * step
    utilisation = big.get("model_flops_utilisation")
    peak = max(small["peak_memory_gib"], big["peak_memory_gib"])
    rate = big["tokens_per_second"]
    table = Table("goal", "measured", "reached", title="Training on one GPU")
    table.add_row(
        f"20 % of the peak FLOP/s at {large:,} tokens a step",
        "-" if utilisation is None else f"{utilisation:.1%}",
        "-" if utilisation is None else mark(utilisation >= 0.2),
    )
    table.add_row(
        f"15,000 tokens/s at {large:,} tokens a step", f"{rate:,.0f}", mark(rate >= 15_000)
    )
    table.add_row(
        f"200 ms for a step of 16 rows ({tokens:,.0f} tokens)", f"{step * 1000:,.0f} ms",
        mark(step <= 0.2),
    )  # fmt: skip
    table.add_row("peak under 76 GiB, both", f"{peak:.1f} GiB", mark(peak < 76))
    Console().print(table)


def mark(reached: bool) -> str:
    """Yes or no."""
    return "yes" if reached else "no"


def compare(model: str, rows: Path) -> None:
    """Plain TRL's default against ours, and both at the same ranks."""
    command = [
        sys.executable, str(HERE / "training_throughput.py"), "--model", model, "--train_file",
        str(rows), "--rows", "160", "--held_out_rows", "4", "--only", "b", "ours", "b, our ranks",
        "ours, recomputed",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
