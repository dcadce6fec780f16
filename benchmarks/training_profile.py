r"""Where the time of training steps goes, by kind of operation: `train_sft_trl.py`, profiled.

    python benchmarks/training_profile.py --config recipes/cpu-example-train.yaml
    python benchmarks/training_profile.py --config recipes/cpu-example-train.yaml \
        --expert_lora folded
    python benchmarks/training_profile.py --config recipes/cpu-example-train.yaml \
        --dtype bfloat16 --bf16 true --attn_implementation sdpa --tokens_per_step 2048
    python benchmarks/training_profile.py --config recipes/h100-train.yaml \
        --model_name models/shape-30b                     # a GPU; see benchmarks/random_model.py

All flags but --steps are the command's own. It trains three times, a few steps each time: to warm
up, by the clock, and with torch looking on. Times are of an operation alone, without what it calls:
on a GPU of the kernels it launches, on a CPU of its threads, where experts' products are matrix
products like any other. Looking on takes time too, most of all from small operations. On a GPU, the
time by the clock over that of all kernels is that of a card waiting for Python. Operations are
those that call no other and do more than change a shape: on a GPU each is a kernel to launch.
"""

import argparse
import json
import logging
import statistics
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
# What neither computes nor copies; every other operation that calls none is a kernel on a GPU.
ONLY_SHAPES = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk",
        "detach", "detach_", "empty", "empty_like", "empty_strided", "expand", "expand_as",
        "flatten", "is_pinned", "item", "lift_fresh", "narrow", "new_empty", "permute", "reshape",
        "resize_", "resolve_conj", "resolve_neg", "result_type", "select", "set_", "slice",
        "split", "split_with_sizes", "squeeze", "t", "to", "transpose", "unbind", "unsqueeze",
        "view", "view_as",
    )
}  # fmt: skip


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
        figures = run_steps(flags, options.steps)
        with profile(activities=activities) as profiler:
            run_steps(flags, options.steps)
    show(*by_kind(profiler), options.steps)
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:,.4g}")


def run_steps(flags: Sequence[str], steps: int) -> dict[str, float]:
    """The command, for a few steps, with nothing kept and nothing held out; medians of its log."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            [
                *flags, "--output_dir", str(Path(folder) / "run"), "--max_steps", str(steps),
                "--save_strategy", "no", "--eval_file", "none", "--report_to", "none",
                "--logging_steps", "1",
            ]
        )  # fmt: skip
        log = json.loads((Path(folder) / "run" / "log_history.json").read_text())
        lines = [line for line in log if "rows_per_second" in line]
        return {
            name: statistics.median(line[name] for line in lines)
            for name in SHOWN
            if name in lines[-1]
        } | {"seconds_a_step": log[-1]["train_runtime"] / steps}


def by_kind(profiler: profile) -> tuple[Counter[str], Counter[str]]:
    """Seconds of all operations, each counted alone, and their number, by kind."""
    seconds: Counter[str] = Counter()
    number: Counter[str] = Counter()
    on_gpu = torch.cuda.is_available()
    for event in profiler.events():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel or a range on a GPU: counted with the operation that launched it
        kind = kind_of(event.name)
        seconds[kind] += (
            event.self_device_time_total if on_gpu else event.self_cpu_time_total
        ) / 1e6
        number[kind] += computes(event.name) and not any(
            computes(child.name) for child in event.cpu_children
        )
    return seconds, number


def computes(name: str) -> bool:
    """Whether an operation does more than change shapes, or calls one that does."""
    return name.startswith("aten::") and name not in ONLY_SHAPES


def kind_of(name: str) -> str:
    """The kind of an operation or a kernel."""
    lower = name.lower()
    return next(
        (kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), OTHER
    )


def show(seconds: Counter[str], number: Counter[str], steps: int) -> None:
    """Print seconds a step, shares, and operations a step."""
    table = Table("kind of operation", "ms a step", "share", "operations a step")
    for kind, spent in seconds.most_common():
        table.add_row(
            kind,
            f"{spent / steps * 1000:.1f}",
            f"{spent / seconds.total():.0%}",
            f"{number[kind] / steps:,.0f}",
        )
    table.add_section()
    whole = f"{seconds.total() / steps * 1000:.1f}"
    table.add_row("all", whole, "100%", f"{number.total() / steps:,.0f}", style="bold")
    Console().print(table)


if __name__ == "__main__":
    main()
