r"""What a 4-bit base saves and costs: bytes, time, held-out loss and accuracy, in one run.

    python benchmarks/quantised_training.py                          # example pair, two cores
    python benchmarks/quantised_training.py --epochs 0.1 --answers 16   # does it run?
    python benchmarks/quantised_training.py --model Qwen/Qwen3-30B-A3B-Instruct-2507 \
        --learning_rate 2e-4 --epochs 1 --ways experts nested        # on a GPU

The same rows, seed and settings (recipes/cpu-example-train.yaml) with the base as it is, with its
linear layers in 4 bits (what bitsandbytes' own layers reach), with the experts too, and with doubly
quantised scales. Bytes are those of the loaded weights. The time is the median of the steps, looks
at the held-out rows left out. Each adapter is then measured on the base it was trained on and on
the base as it is, which is what it will be merged into and served with.
"""

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table

from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.chat_rows import read_chat_rows
from prompt_distillation.data.files import read_json
from prompt_distillation.engines.prompts import end_of_turn_ids
from prompt_distillation.training.encode import IGNORED, encode_rows
from prompt_distillation.training.held_out_answers import answer_greedily, count_right, questions
from prompt_distillation.training.loading import load_student, load_student_tokenizer
from prompt_distillation.training.quantisation.base_weights import held_bytes
from prompt_distillation.training.run import train

WAYS: Mapping[str, dict[str, bool]] = {
    "full": {},
    "linear": {"load_in_4bit": True, "bnb_4bit_experts": False},
    "experts": {"load_in_4bit": True},
    "nested": {"load_in_4bit": True, "use_bnb_nested_quant": True},
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way's figures: bytes, seconds a step, and (loss, accuracy) on either base."""

    weights: int
    step_seconds: float
    own_base: tuple[float, float]
    full_base: tuple[float, float]


def main() -> None:
    """Train once a way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", type=Path, default="data/prompt_distillation_lang.jsonl")
    parser.add_argument("--model", default="example-models/student")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=int, default=10_000, help="held-out rows, at most")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = {}
    for way in options.ways:
        with tempfile.TemporaryDirectory() as folder:
            results[way] = measure(options, WAYS[way], Path(folder))
        loss, right = results[way].own_base
        print(f"{way}: held-out loss {loss:.4f}, accuracy {right:.1%}")
    show(results)


def measure(options, flags: Mapping[str, bool], folder: Path) -> Measured:
    """Train in one way, and measure the adapter on both bases."""
    config = TrainConfig.of(
        train_file=options.train_file,
        model_name=options.model,
        output_dir=folder / "run",
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        max_length=512,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        gradient_checkpointing=torch.cuda.is_available(),
        report_to="none",
        eval_file="none",
        seed=options.seed,
        **flags,
    )
    train(config, {"save_strategy": "no"}, console=Console(quiet=True))
    history = json.loads((folder / "run" / "log_history.json").read_bytes())
    rates = [entry["rows_per_second"] for entry in history if "rows_per_second" in entry]
    rows_a_step = read_json(folder / "run" / "training_manifest.json")["micro_batch"]["rows"]
    plain = replace(config, four_bit=replace(config.four_bit, load_in_4bit=False))
    own = judge(config, folder / "run", options)
    return Measured(
        weights=held_bytes(load(config)),
        step_seconds=rows_a_step / statistics.median(rates),
        own_base=own,
        full_base=judge(plain, folder / "run", options) if flags else own,
    )


def load(config: TrainConfig):
    """The base, held as the settings say."""
    return load_student(config, {}, on_gpu=torch.cuda.is_available())


@torch.no_grad()
def judge(config: TrainConfig, adapter: Path, options) -> tuple[float, float]:
    """Held-out loss in nats per token, and accuracy by generation, of an adapter on a base."""
    model = PeftModel.from_pretrained(load(config), str(adapter)).eval()
    tokenizer = load_student_tokenizer(config.model)
    stop_ids = end_of_turn_ids(tokenizer, model.generation_config)
    rows = read_chat_rows(Path(options.train_file).with_suffix(".heldout.jsonl"))[: options.answers]
    encoded = encode_rows(rows, tokenizer, stop_ids=stop_ids, max_length=2048)
    summed, count = 0.0, 0
    for row in encoded.rows:
        ids = torch.tensor([row.input_ids], device=model.device)
        labels = torch.tensor(row.labels, device=model.device)[1:]
        logits = model(input_ids=ids).logits[0, :-1].float()
        summed += torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((labels != IGNORED).sum())
    asked = questions(encoded.rows, limit=len(encoded.rows))
    answers = answer_greedily(model, asked, pad_id=tokenizer.pad_token_id)
    return summed / count, count_right(asked, answers) / len(asked)


def show(results: Mapping[str, Measured]) -> None:
    """Print bytes, ratios, losses and accuracies; ratios are to the first way measured."""
    first = next(iter(results.values()))
    table = Table(title="The base while training, and what became of it")
    for column in ("base", "weights, MB", "share", "step, ms", "times", "held-out loss",
                   "accuracy", "on the full base: loss", "accuracy"):  # fmt: skip
        table.add_column(column, justify="right")
    for way, one in results.items():
        table.add_row(
            way, f"{one.weights / 1e6:.2f}", f"{one.weights / first.weights:.1%}",
            f"{1000 * one.step_seconds:.0f}", f"{one.step_seconds / first.step_seconds:.2f}",
            f"{one.own_base[0]:.4f}", f"{one.own_base[1]:.1%}",
            f"{one.full_base[0]:.4f}", f"{one.full_base[1]:.1%}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
