r"""Where the time of training steps goes, by kind of operation: `train_sft_trl.py`, profiled.

    python benchmarks/training_profile.py --config recipes/cpu-example-train.yaml
    python benchmarks/training_profile.py --config recipes/cpu-example-train.yaml \
        --expert_lora folded
    python benchmarks/training_profile.py --config recipes/h100-train.yaml \
        --model_name models/shape-30b                     # a GPU; see benchmarks/random_model.py

All flags but --steps are the command's own. It trains three times, a few steps each time: to warm
up, by the clock, and with torch looking on. Times are of an operation alone, without what it calls:
on a GPU of the kernels it launches, on a CPU of its threads, where experts' products are matrix
products like any other. Looking on takes time too, most of all from small operations. On a GPU, the
time by the clock over that of all kernels is that of a card waiting for Python.
"""

import argparse
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from random_model import drawn_where_missing
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from prompt_distillation.cli.train import main as train

# An operation is of the first kind of which its name holds a part.
KINDS = {
    "dequantising": ("quantize",),
    "attention": ("attention", "flash", "fmha"),
    "grouped products of experts": ("grouped_mm", "bmm"),
    "matrix products": ("mm", "linear", "gemm", "matmul", "addmv"),
    "optimizer, gradient norm": ("adam", "foreach", "_norm", "optimizer", "lerp", "addcdiv"),
    "softmax and loss": ("softmax", "nll", "cross_entropy", "logsumexp"),
    "gathering and sorting": ("index", "gather", "scatter", "sort", "topk", "embedding", "histc"),
    "copies and dtypes": ("copy", "_to", "cat", "fill", "zero", "empty", "memcpy", "memset"),
}
OTHER = "elementwise and the rest"
SHOWN = ("rows_per_second", "tokens_per_second", "model_flops_utilisation", "peak_memory_gib")


def main() -> None:
    """Train, train again under the profiler, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps, each time")
    options, flags = parser.parse_known_args()
    logging.disable(logging.WARNING)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with drawn_where_missing():
        run_steps(flags, options.steps)
        last = run_steps(flags, options.steps)
        with profile(activities=activities) as profiler:
            run_steps(flags, options.steps)
    show(seconds_by_kind(profiler), options.steps)
    for name, value in last.items():
        print(f"{name.replace('_', ' ')}: {value:,.4g}")


def run_steps(flags: Sequence[str], steps: int) -> dict[str, float]:
    """The command, for a few steps, with nothing kept and nothing held out; the last one's log."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            [
                *flags, "--output_dir", str(Path(folder) / "run"), "--max_steps", str(steps),
                "--save_strategy", "no", "--eval_file", "none", "--report_to", "none",
                "--logging_steps", "1",
            ]
        )  # fmt: skip
        log = json.loads((Path(folder) / "run" / "log_history.json").read_text())
        last = [line for line in log if "rows_per_second" in line][-1]
        return {name: value for name, value in last.items() if name in SHOWN} | {
            "seconds_a_step": log[-1]["train_runtime"] / steps
        }


def seconds_by_kind(profiler: profile) -> Counter[str]:
    """Seconds of all operations, each counted alone, by kind."""
    seconds: Counter[str] = Counter()
    on_gpu = torch.cuda.is_available()
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel or a range on a GPU: counted with the operation that launched it
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[kind_of(event.key)] += micros / 1e6
    return seconds


def kind_of(name: str) -> str:
    """The kind of an operation or a kernel."""
    lower = name.lower()
    return next(
        (kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), OTHER
    )


def show(seconds: Counter[str], steps: int) -> None:
    """Print seconds a step and shares."""
    table = Table("kind of operation", "ms a step", "share")
    for kind, spent in seconds.most_common():
        table.add_row(kind, f"{spent / steps * 1000:.1f}", f"{spent / seconds.total():.0%}")
    table.add_row("all", f"{seconds.total() / steps * 1000:.1f}", "100%", style="bold")
    Console().print(table)


if __name__ == "__main__":
    main()
