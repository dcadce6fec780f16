r"""Larger optimizer steps: time and held-out accuracy at the same number of epochs, in one run.

    python benchmarks/larger_steps.py                                 # after the quickstart
    python benchmarks/larger_steps.py --tokens 8192 --growths 0.5     # one size, one rule
    python benchmarks/larger_steps.py --config recipes/h100-train.yaml --tokens 8192 32768  # a GPU

The recipe as it is, then the same with ``--tokens_per_step``, the learning rate multiplied by
(tokens of a step / tokens of the recipe's step) ** growth: 0 leaves it, 0.5 is the square root, 1
is proportional. Accuracy is that of the student against gold labels, on the held-out inputs.
"""

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import prompt_distillation as pd
from prompt_distillation.data.files import read_json
from prompt_distillation.yaml_files import read_yaml_mapping


def main() -> None:
    """Train and evaluate once for each setting, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default="recipes/cpu-example-train.yaml")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--growths", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--engine", default="transformers", help="that answers the held-out inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_file", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    recipe = {
        **read_yaml_mapping(options.config, error=SystemExit),
        "report_to": "none",
        "held_out_answers": 0,
        "eval_file": "none",
        "seed": options.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(recipe, Path(folder) / "as-it-is", options.engine)]
        for tokens in options.tokens:
            for growth in options.growths:
                rate = recipe["learning_rate"] * (tokens / rows[0]["tokens_per_step"]) ** growth
                changed = {**recipe, "tokens_per_step": tokens, "learning_rate": rate}
                name = f"{tokens}-{growth}"
                rows.append(measure(changed, Path(folder) / name, options.engine))
    show(rows)
    if options.output_file:
        options.output_file.write_text(json.dumps(rows, indent=1) + "\n")


def measure(recipe: dict[str, object], folder: Path, engine: str) -> dict[str, float]:
    """Train, then evaluate against gold."""
    settings = {name: value for name, value in recipe.items() if name != "train_file"}
    pd.train(recipe["train_file"], **{**settings, "output_dir": folder})
    manifest = read_json(folder / "training_manifest.json")
    result = pd.evaluate(
        folder,
        task="tasks/language",
        test_file="example-data/multilingual.txt",
        train_data_file=recipe["train_file"],
        ground_truth_file="example-data/multilingual.gold.jsonl",
        engine=engine,
    )
    batch = manifest["micro_batch"]
    rows = batch["rows"] * batch["accumulation_steps"] * batch["processes"]
    counts, figures = manifest["counts"], manifest["result"]
    return {
        "tokens_per_step": counts["tokens"] / counts["rows"] * rows,
        "learning_rate": recipe["learning_rate"],
        "steps": figures["steps"],
        "seconds": figures["seconds"],
        "correct": result.summary.correct,
        "n": result.summary.evaluated,
    }


def show(rows: list[dict[str, float]]) -> None:
    """Print the table; times relative to the recipe's."""
    table = Table("tokens / step", "learning rate", "steps", "time", "held-out accuracy")
    for row in rows:
        table.add_row(
            f"{row['tokens_per_step']:,.0f}",
            f"{row['learning_rate']:.2g}",
            f"{row['steps']:,}",
            f"{row['seconds'] / rows[0]['seconds']:.2f}",
            f"{row['correct'] / row['n']:.1%} of {row['n']}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
