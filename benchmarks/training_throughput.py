r"""Rows per second and held-out loss of one epoch, against plain TRL, in one run on one machine.

    python benchmarks/training_throughput.py                     # about ten minutes on two cores
    python benchmarks/training_throughput.py --rows 320          # a quick look

(a) the reference recipe spelled out in plain TRL: text rows, loss on every token, 4 rows x 4 steps
(b) TRL's own way to completion-only loss: prompt/completion rows, 4 x 4, everything else default
(b lean) as (b), in float32 and without gradient checkpointing, as the CPU recipe has it
(ours) `train_sft_trl.py` with its defaults; on a CPU without gradient checkpointing, as the CPU
recipe has it
(b, our ranks) as (b) on a GPU and as (b lean) on a CPU, with the ranks that (ours) gives to
experts, and gradient checkpointing
(ours, recomputed) as (ours), with gradient checkpointing

The last two train the same parameters and keep the same activations; TRL's default gives rank 32,
and more, to each expert. All: the example student, the same rows, an effective batch of 16, LoRA
r 32 alpha 16 on all linear layers, the same schedule. On a GPU every base is in bfloat16, which a
30B model needs to fit at all; TRL would load it in float32. The held-out loss is measured after
training by one function, on the answer and its end of turn, in nats per token. On a GPU each recipe
trains two steps first, which are not counted, and the peak of the allocator is printed too. The
true shape of the target model, with random weights (benchmarks/random_model.py, --config_only):

    python benchmarks/training_throughput.py --model models/shape-30b --rows 128 \
        --only a b ours "b, our ranks" "ours, recomputed"
"""

import argparse
import gc
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from random_model import drawn_where_missing
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from prompt_distillation.config.train_config import LoraSettings, TrainConfig
from prompt_distillation.data.chat_rows import ChatRow, read_chat_rows
from prompt_distillation.engines.prompts import end_of_turn_ids
from prompt_distillation.training.encode import IGNORED, encode_rows
from prompt_distillation.training.lora.adapter import ALL_LINEAR, find_targets, lora_config
from prompt_distillation.training.run import train

MODEL = "example-models/student"
ON_GPU = torch.cuda.is_available()
BASE_DTYPE = torch.bfloat16 if ON_GPU else torch.float32
SAME_RANKS, RECOMPUTED = "b, our ranks", "ours, recomputed"
RECIPES = ["a", "b", "b lean", "ours", SAME_RANKS, RECOMPUTED]


def main() -> None:
    """Train once for each recipe and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", type=Path, default="data/prompt_distillation_lang.jsonl")
    parser.add_argument("--held_out_file", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=None, help="take the first N rows only")
    parser.add_argument("--held_out_rows", type=int, default=None, help="ask the first N only")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=RECIPES)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    held_out_file = options.held_out_file or options.train_file.with_suffix(".heldout.jsonl")
    rows = read_chat_rows(options.train_file)[: options.rows]
    held_out = read_chat_rows(held_out_file)[: options.held_out_rows]
    results = {}
    with drawn_where_missing():
        for name in options.only:
            if ON_GPU:
                train_once(name, rows[:32], options)
                torch.cuda.reset_peak_memory_stats()
            seconds, peak, loss = train_once(name, rows, options, held_out)
            results[name] = Measured(len(rows) / seconds, loss, peak)
            print(f"{name}: {results[name]}", flush=True)
    show(results)


class Measured(NamedTuple):
    """Of one recipe: rows per second, nats per token, and GiB (0 on a CPU)."""

    rate: float
    loss: float
    peak_gib: float


def train_once(
    name: str, rows: list[ChatRow], options: argparse.Namespace, held_out: Sequence[ChatRow] = ()
) -> tuple[float, float, float]:
    """Seconds of training, GiB at its peak, and the loss on ``held_out`` after it."""
    run = run_ours if name in {"ours", RECOMPUTED} else run_plain
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak, model = run(name, rows, options, Path(folder))
        loss = held_out_loss(model, held_out, options.model) if held_out else float("nan")
    del model  # the next one may need the place
    gc.collect()
    torch.cuda.empty_cache()
    return seconds, peak, loss


def run_plain(name: str, rows: list[ChatRow], options, folder: Path):
    """(a) and (b): plain TRL. Returns seconds of the training loop, its peak, and the model."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=BASE_DTYPE)
    adapter = LoraConfig(r=32, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    other = {}
    if name == "b lean":
        other = {"bf16": False, "gradient_checkpointing": False}
    elif name == SAME_RANKS:
        other = {"bf16": ON_GPU, "gradient_checkpointing": True}
        adapter = lora_config(model, LoraSettings(), find_targets(model, ALL_LINEAR))
    arguments = SFTConfig(
        output_dir=str(folder),
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.03,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        num_train_epochs=1,
        max_length=2048,
        use_cpu=not ON_GPU,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **other,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=text_rows(rows, tokenizer) if name == "a" else completion_rows(rows),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started, peak_gib(), trainer.model


def text_rows(rows: list[ChatRow], tokenizer) -> Dataset:
    """Whole conversations as text: every token has loss."""
    return Dataset.from_list(
        [
            {"text": tokenizer.apply_chat_template([*row.context, row.answer], tokenize=False)}
            for row in rows
        ]
    )


def completion_rows(rows: list[ChatRow]) -> Dataset:
    """Prompt and completion: TRL trains on the completion."""
    return Dataset.from_list(
        [{"prompt": list(row.context), "completion": [row.answer]} for row in rows]
    )


def run_ours(name: str, rows: list[ChatRow], options, folder: Path):
    """The project's own command, without its looks at the held-out rows and checkpoints."""
    train_file = folder / "rows.jsonl"
    train_file.write_text(
        "".join(json.dumps({"messages": [*row.context, row.answer]}) + "\n" for row in rows)
    )
    config = TrainConfig.of(
        train_file=train_file,
        model_name=options.model,
        output_dir=folder / "run",
        learning_rate=options.learning_rate,
        gradient_checkpointing=True if name == RECOMPUTED else None if ON_GPU else False,
        report_to="none",
        eval_file="none",
    )
    result = train(config, {"save_strategy": "no"}, console=Console(quiet=True))
    peak = peak_gib()
    gc.collect()
    torch.cuda.empty_cache()
    model = AutoPeftModelForCausalLM.from_pretrained(
        folder / "run", dtype=BASE_DTYPE, device_map="cuda" if ON_GPU else None
    )
    return result.seconds, peak, model


def peak_gib() -> float:
    """What torch's allocator held at most on the GPU; 0 without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0


@torch.no_grad()
def held_out_loss(model, rows: Sequence[ChatRow], model_name: str) -> float:
    """Mean negative log-likelihood of answers and their end of turn, in nats per token."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    stop_ids = end_of_turn_ids(tokenizer, model.generation_config)
    encoded = encode_rows(rows, tokenizer, stop_ids=stop_ids, max_length=2048)
    model.eval()
    summed, count = 0.0, 0
    for row in encoded.rows:
        ids = torch.tensor([row.input_ids], device=model.device)
        labels = torch.tensor(row.labels, device=model.device)[1:]
        logits = model(input_ids=ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        )
        summed += losses.item()
        count += int((labels != IGNORED).sum())
    return summed / count


def show(results: dict[str, Measured]) -> None:
    """Print rates, ratios and losses."""
    table = Table(title="One epoch, effective batch 16")
    baselines = {name: results[name] for name in ("a", "b", SAME_RANKS) if name in results}
    columns = ["recipe", "rows/s", *(f"times ({name})" for name in baselines)]
    columns += ["held-out loss", "over (b)"]
    for column in [*columns, "peak GiB"] if ON_GPU else columns:
        table.add_column(column, justify="right")
    b = results.get("b")
    for name, one in results.items():
        table.add_row(
            name,
            f"{one.rate:.1f}",
            *(f"{one.rate / baseline.rate:.2f}" for baseline in baselines.values()),
            f"{one.loss:.4f}",
            f"{one.loss / b.loss - 1:+.1%}" if b else "",
            *([f"{one.peak_gib:.1f}"] if ON_GPU else []),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
