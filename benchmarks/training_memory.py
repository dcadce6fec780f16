"""The memory estimate of `train_sft_trl.py --dry_run` against the peak that a run really takes.

    python benchmarks/training_memory.py                       # every shape; minutes on two cores
    python benchmarks/training_memory.py --only dense moe      # some of them
    python benchmarks/training_memory.py --only qwen3-30b-a3b  # the target's shape: 80 GB of GPU

Random weights of three families, a few real steps of the package's own trainer each, in a process
of their own. On a GPU the peak is `torch.cuda.max_memory_allocated()`. On a CPU it is the highest
sum of live blocks of torch's allocator: parameters and buffers as they stand when training starts,
and from there every allocation and release that torch's profiler records, temporary buffers inside
operators included. That is what a card would hold for the same kernels. It leaves out what no
tensor owns (Python, a CUDA context, fragments of a caching allocator), and a CPU's kernels differ
from a card's in their workspaces.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from random_model import SHAPES as REAL_SHAPES
from random_model import draw, drawn_where_missing, save_without_weights
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, GPT2Config, Qwen3Config, Qwen3MoeConfig

from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.loading import prepare
from prompt_distillation.training.memory.plan import plan_run
from prompt_distillation.training.methods.sft import AnswerTrainer
from prompt_distillation.training.run import train

MIB = 2**20
TOKENIZER = "example-models/student"
STEPS = 2  # from the second on, the optimizer's state stands during the backward pass
SHAPES = {
    "dense": Qwen3Config(
        vocab_size=32000, hidden_size=768, intermediate_size=2304, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=4, head_dim=64,
    ),
    "moe": Qwen3MoeConfig(
        vocab_size=32000, hidden_size=512, moe_intermediate_size=256, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, num_experts=64,
        num_experts_per_tok=4,
    ),
    "gpt2": GPT2Config(),  # GPT-2 small
    **REAL_SHAPES,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run: a shape and the flags that change the estimate."""

    shape: str
    flags: dict[str, object] = field(default_factory=dict)
    sft: dict[str, object] = field(default_factory=dict)


BFLOAT16 = {"bf16": True}
CASES = {
    "dense": Case("dense", {"gradient_checkpointing": False}),
    "dense, checkpointing": Case("dense", {"gradient_checkpointing": True}),
    "dense, bfloat16, 2 passes": Case(
        "dense", {"gradient_checkpointing": False, "dtype": "bfloat16", "max_length": 300}, BFLOAT16
    ),
    "moe": Case("moe", {"gradient_checkpointing": False}),
    "moe, checkpointing": Case("moe", {"gradient_checkpointing": True}),
    "moe, folded": Case("moe", {"gradient_checkpointing": False, "expert_lora": "folded"}),
    "moe, bfloat16, checkpointing": Case(
        "moe", {"gradient_checkpointing": True, "dtype": "bfloat16"}, BFLOAT16
    ),
    "gpt2": Case("gpt2", {"gradient_checkpointing": False}),
    "gpt2, checkpointing": Case("gpt2", {"gradient_checkpointing": True}),
    "gpt2, every weight": Case("gpt2", {"gradient_checkpointing": False, "use_lora": False}),
}
LARGE_CASES = {
    "qwen3-30b-a3b": Case("qwen3-30b-a3b", {"gradient_checkpointing": False}),
    "qwen3-30b-a3b, checkpointing": Case("qwen3-30b-a3b", {"gradient_checkpointing": True}),
}


def main() -> None:
    """Measure every case in a process of its own and print estimate against measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="cases, or shapes; default: all small ones")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure((CASES | LARGE_CASES)[options.measure])))
        return
    asked = set(options.only or CASES)
    chosen = [n for n, case in (CASES | LARGE_CASES).items() if {n, case.shape} & asked]
    results = {}
    for name in chosen:
        done = subprocess.run(
            [sys.executable, __file__, "--measure", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
        ratio = results[name]["total"] / results[name]["measured"]
        print(f"{name}: estimate {ratio:.3f} of measured", flush=True)
    show(results)


def measure(case: Case) -> dict[str, float]:
    """Estimate, by part, and measured peak of one case, in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_case(case, folder)
        on_gpu = torch.cuda.is_available()
        run = prepare(config, case.sft)
        estimate = plan_run(run, capacity_gib=80, on_gpu=on_gpu).memory
        with drawn_where_missing():
            measured = peak_of(config, {"save_strategy": "no", **case.sft})
    if on_gpu:
        # The allocator's figure is without what the context takes.
        return vars(estimate) | {"total": estimate.total - estimate.context, "measured": measured}
    return vars(estimate) | {"total": estimate.total, "measured": measured}


def write_case(case: Case, folder: Path) -> TrainConfig:
    """Write model and rows; returns the settings."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = SHAPES[case.shape]
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, None
    config.pad_token_id = tokenizer.pad_token_id
    if case.shape in REAL_SHAPES:
        save_without_weights(config, folder / "model")
    else:
        draw(config, torch.bfloat16).to("cpu").save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder / "rows.jsonl", count=4 * STEPS)
    return TrainConfig.of(
        train_file=folder / "rows.jsonl",
        model_name=str(folder / "model"),
        output_dir=folder / "run",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        report_to="none",
        eval_file="none",
        **case.flags,
    )


def write_rows(path: Path, *, count: int) -> None:
    """Rows of about 240 tokens with answers of two.

    All the same: the estimate is of the longest rows meeting in a pass, so every pass is that one.
    """
    words = Path("example-data/multilingual.txt").read_text(encoding="utf-8").split()
    text = " ".join(random.Random(0).choices(words, k=75))
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "en"}]
    path.write_text((json.dumps({"messages": turns}) + "\n") * count, encoding="utf-8")


def peak_of(config: TrainConfig, options: dict[str, object]) -> int:
    """Bytes at the peak of a run."""
    console = Console(quiet=True)
    if torch.cuda.is_available():
        train(config, options, console=console)
        return torch.cuda.max_memory_allocated()
    peaks = []
    plain = AnswerTrainer.train

    def counted(trainer: AnswerTrainer, **options: object) -> object:
        model = trainer.model
        tensors = [*model.parameters(), *model.buffers()]
        standing = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            output = plain(trainer, **options)
        peaks.append(sum(standing.values()) + highest_sum(profiler))
        return output

    with mock.patch.object(AnswerTrainer, "train", counted):
        train(config, options, console=console)
    return peaks[0]


def highest_sum(profiler: torch.profiler.profile) -> int:
    """The highest running sum of allocated and released bytes."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    highest = live = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def show(results: dict[str, dict[str, float]]) -> None:
    """Print the table: a row per part, a column per case."""
    table = Table(title="MiB")
    table.add_column("part")
    for name in results:
        table.add_column(name, justify="right")
    for part in next(iter(results.values())):
        table.add_row(part, *(f"{result[part] / MIB:,.0f}" for result in results.values()))
    ratios = [result["total"] / result["measured"] for result in results.values()]
    table.add_row("estimate / measured", *(f"{ratio:.3f}" for ratio in ratios), style="bold")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
