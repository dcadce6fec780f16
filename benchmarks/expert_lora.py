r"""Expert adapters on activations against PEFT's folding: step time and peak memory, in one run.

    OMP_NUM_THREADS=2 python benchmarks/expert_lora.py                  # the example student
    OMP_NUM_THREADS=2 python benchmarks/expert_lora.py --shape mid      # 64 experts, minutes
    python benchmarks/expert_lora.py --shape qwen3-30b-a3b --layers 48 \
        --gradient_checkpointing                                        # a GPU with 80 GB
    python benchmarks/expert_lora.py --shape qwen3-30b-a3b --tokens 64 512  # one layer on a CPU

A step is one forward and one backward pass through a Qwen3-MoE with random weights and LoRA on
attention and experts, ranks as `train_sft_trl.py` chooses them: no optimizer, one trained token. A
folded step runs transformers' default experts implementation with PEFT's wrappers, as TRL would.
Each way is a process of its own; the ways take turns, and the fastest step of all turns counts.
Peak memory is what the steps take over the loaded model, adapter gradients included: on a GPU by
torch's allocator; on a CPU by the kernel's high-water mark of resident memory, which is reset, and
freed memory given back, before each size. Time and memory of one step are of the same step.

Published ways to the same end, for comparison; neither runs on a CPU (Triton), so neither is here:

- Unsloth, "Split LoRA": reorders the products so that no delta is made; custom Triton and
  torch's grouped_mm. It reports about 2 times the speed and 35 % less memory than transformers 5
  with grouped_mm, and 63 GB for Qwen3-30B-A3B with 16-bit LoRA.
  https://unsloth.ai/docs/new/faster-moe
- axolotl, ScatterMoE LoRA: Triton kernels that fuse B A into the grouped product of each expert,
  registered with transformers as an experts implementation; needs a CUDA GPU. Its README gives no
  step times ("~97% memory savings" there is of dequantising the chosen experts only).
  https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/integrations/kernels/README.md
- PEFT 0.21 folds with one `baddbmm`, by its own figures 1.94 times as fast as folding before, in
  36 % less memory (one layer of Qwen3-30B-A3B's shape, 4,096 tokens, H100). That is the folding
  measured here. https://github.com/huggingface/peft/pull/3577
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeConfig

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training.lora.adapter import adapt

WAYS = ("folded", "activations")
MIB = 2**20


def shape(name: str, layers: int | None) -> Qwen3MoeConfig:
    """A model's configuration; only what the experts and attention cost matters."""
    if name == "example":
        config = AutoConfig.from_pretrained("example-models/student")
    elif name == "mid":
        config = Qwen3MoeConfig(
            vocab_size=1024, hidden_size=768, moe_intermediate_size=384, num_hidden_layers=2,
            num_attention_heads=12, num_key_value_heads=4, head_dim=64, num_experts=64,
            num_experts_per_tok=4,
        )  # fmt: skip
    else:
        config = Qwen3MoeConfig(
            vocab_size=1024, hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=1,
            num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128,
            num_experts_per_tok=8,
        )  # fmt: skip
    config.num_hidden_layers = layers or config.num_hidden_layers
    return config


def adapted(options: argparse.Namespace):
    """The model with random weights and a random adapter."""
    torch.manual_seed(0)
    config = shape(options.shape, options.layers)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    model = adapt(
        model, LoraSettings(lora_expert_rank=options.expert_rank, expert_lora=options.way)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first: A would have no gradient
                parameter.normal_(std=0.02)
    return model.train()


def measure(options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """One way: tokens -> the fastest step, and bytes of the peak over the loaded model."""
    model = adapted(options)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    step(model, 8, options.device)  # loads what torch loads at its first step
    model.zero_grad()
    loaded = reset_peak(options.device)
    results = {}
    for tokens in options.tokens:
        reset_peak(options.device)
        steps = [step(model, tokens, options.device) for _ in range(1 + options.steps)]
        # The first one of a size warms up.
        fastest = min(steps[1:], key=lambda result: result["seconds"])
        results[tokens] = fastest | {"peak_bytes": peak(options.device) - loaded}
        model.zero_grad()
    return results


def step(model, tokens: int, device: str) -> dict[str, float]:
    """Forward and backward: seconds, and the norm of the gradient."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 1024, (1, tokens), generator=generator).to(device)
    model.zero_grad()
    started = time.perf_counter()
    logits = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits
    logits.float().log_softmax(-1)[0, 0, 0].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()  # waits for a GPU
    return {"seconds": time.perf_counter() - started, "gradient_norm": norm}


def reset_peak(device: str) -> int:
    """Forget the peak so far; bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return status_bytes("VmRSS")


def peak(device: str) -> int:
    """Highest number of bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def run_way(arguments: list[str], way: str) -> dict[str, dict[str, float]]:
    """`measure` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--way", way],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: list[str], turns: int) -> dict[str, dict[str, dict[str, float]]]:
    """Tokens -> way -> the fastest step and the highest peak of all turns."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for _ in range(turns):
        for way in WAYS:
            for tokens, case in run_way(arguments, way).items():
                best = results.setdefault(tokens, {}).setdefault(way, case)
                best["seconds"] = min(case["seconds"], best["seconds"])
                best["peak_bytes"] = max(case["peak_bytes"], best["peak_bytes"])
    return results


def show(results: dict[str, dict[str, dict[str, float]]], title: str) -> None:
    """Print times, peaks and their ratios."""
    table = Table(title=title, title_justify="left")
    for column in (
        "tokens", "folded ms", "activations ms", "times faster", "folded MiB", "activations MiB",
        "of its memory", "gradient norms differ",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for tokens, ways in results.items():
        folded, ours = ways["folded"], ways["activations"]
        table.add_row(
            f"{int(tokens):,}",
            f"{folded['seconds'] * 1e3:.1f}",
            f"{ours['seconds'] * 1e3:.1f}",
            f"{folded['seconds'] / ours['seconds']:.2f}",
            f"{folded['peak_bytes'] / MIB:.0f}",
            f"{ours['peak_bytes'] / MIB:.0f}",
            f"{ours['peak_bytes'] / folded['peak_bytes']:.0%}",
            f"{abs(ours['gradient_norm'] / folded['gradient_norm'] - 1):.0e}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Measure every case and print the table."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["example", "mid", "qwen3-30b-a3b"], default="example")
    parser.add_argument("--layers", type=int, help="default: 4, 2 and 1")
    parser.add_argument("--tokens", type=int, nargs="*", default=[64, 512, 4096])
    parser.add_argument("--expert_rank", type=int, help="default: 32 over the active experts")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="timed in each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output_file", type=Path, help="the figures as JSON")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options)))
        return
    results = compare(sys.argv[1:], options.turns)
    config = shape(options.shape, options.layers)
    show(
        results,
        f"{options.shape}: {config.num_hidden_layers} layers, {config.num_experts} experts, "
        f"{config.num_experts_per_tok} a token, hidden {config.hidden_size}, {options.dtype}, "
        f"{options.device}, {torch.get_num_threads()} threads",
    )
    if options.output_file is not None:
        report = {"options": {key: str(value) for key, value in vars(options).items()}}
        text = json.dumps(report | {"results": results}, indent=2)
        options.output_file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
