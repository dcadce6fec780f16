"""The card of an adapter or an exported student: what it is, how made, how well it does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prompt_distillation.training.lora.liveness import QUANTISED, Comparison

_RECIPE = (
    "lora_rank", "lora_alpha", "lora_expert_rank", "lora_targets", "learning_rate",
    "lr_scheduler_type", "warmup_ratio", "num_train_epochs", "max_length", "seed",
)  # fmt: skip


_PURPOSE = (
    "fine-tuned on a thinking teacher's answers so that it gives them without the teacher's prompt "
    "and without thinking. Ask it with the user's text alone."
)


def model_card(
    name: str,
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    comparisons: Sequence[Comparison],
) -> str:
    """Render the card as Markdown with the front matter that the hub reads.

    Args:
        name: title of the model.
        manifest: the run's ``training_manifest.json``.
        evaluation: ``evaluation_results.json`` of this student, where there is one.
        comparisons: what the liveness check measured.
    """
    base = manifest["base_model"]["name"]
    parts = [
        _head(base, library="transformers", tags=["lora-merged"]),
        f"# {name}",
        f"`{base}`, {_PURPOSE}",
        *_held(comparisons),
        "## Recipe",
        _table(("setting", "value"), _recipe(manifest)),
        "## Training",
        _table(("figure", "value"), _training(manifest)),
    ]
    if evaluation is not None:
        parts += ["## Evaluation", _table(("figure", "value"), _evaluation(evaluation))]
    parts += [
        "## The adapter is in these weights",
        "Mean absolute difference of the answers' log-probabilities, in nats:",
        _table(("one", "other", "should", "difference"), _liveness(comparisons)),
    ]
    return "\n\n".join(parts) + "\n"


def trained_card(name: str, manifest: Mapping[str, Any]) -> str:
    """Render the card of what a training run leaves: an adapter, or a model trained whole.

    Args:
        name: title, the folder's name.
        manifest: the run's ``training_manifest.json``.
    """
    base, config = manifest["base_model"]["name"], manifest["config"]
    is_adapter = config["use_lora"]
    tags = [f"base_model:adapter:{base}", "lora"] if is_adapter else []
    what = f"A LoRA adapter of `{base}`," if is_adapter else f"`{base}`, every weight of it"
    if not is_adapter:
        manifest = {**manifest, "config": _without_lora(config)}
    parts = [
        _head(base, library="peft" if is_adapter else "transformers", tags=[*tags, "sft", "trl"]),
        f"# {name}",
        f"{what} {_PURPOSE}",
        "## Use",
        _loading(name, base, is_adapter=is_adapter),
        "## Data",
        f"{manifest['counts']['rows']:,} chat rows of `{Path(config['train_file']).name}` (sha256 "
        f"`{manifest['inputs']['train_file_sha256']}`), {manifest['counts']['held_out_rows']:,} "
        "held-out ones beside.",
        "## Recipe",
        _table(("setting", "value"), _recipe(manifest)),
        "## Training",
        _table(("figure", "value"), _training(manifest)),
        "`training_manifest.json` holds every setting and version.",
    ]
    return "\n\n".join(parts) + "\n"


def _without_lora(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("lora_")}


def _head(base: str, *, library: str, tags: Sequence[str]) -> str:
    """The front matter that the hub reads."""
    fields = {
        "base_model": base,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["prompt-distillation", *tags],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _loading(name: str, base: str, *, is_adapter: bool) -> str:
    imports, folder = "AutoModelForCausalLM, AutoTokenizer", f'"{name}"  # this folder'
    lines = [f"from transformers import {imports}", "", f"path = {folder}"]
    if is_adapter:
        lines.insert(0, "from peft import PeftModel")
        lines += [
            f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")',
            "model = PeftModel.from_pretrained(base, path)",
        ]
    else:
        lines += ['model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")']
    lines += ["tokenizer = AutoTokenizer.from_pretrained(path)"]
    return "\n".join(["```python", *lines, "```"])


def _held(comparisons: Sequence[Comparison]) -> list[str]:
    if not any(pair.second == QUANTISED for pair in comparisons):
        return []
    return [
        "Weights of linear layers and experts are 4-bit integers in groups with a scale each "
        "(compressed-tensors, W4A16), rounded to the nearest value without calibration data."
    ]


def _recipe(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    config = manifest["config"]
    batch = manifest["micro_batch"]
    rows = batch["rows"] * batch["accumulation_steps"] * batch["processes"]
    listed = [(key, str(config[key])) for key in _RECIPE if config.get(key) is not None]
    return [
        *listed,
        ("rows per optimizer step", str(rows)),
        ("base while training", _base(config)),
    ]


def _base(config: Mapping[str, Any]) -> str:
    """How the frozen weights were held, by the run's flags."""
    # Manifests of runs before these flags have none of them.
    if not config.get("load_in_4bit", False):
        return "not quantised"
    scales = ", scales in 8 bits" if config["use_bnb_nested_quant"] else ""
    experts = "experts too" if config["bnb_4bit_experts"] else "linear layers alone"
    return f"4 bits ({config['bnb_4bit_quant_type']}{scales}), {experts}"


def _training(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    counts, result = manifest["counts"], manifest["result"]
    rows: list[tuple[str, ...]] = [
        ("rows", f"{counts['rows']:,}"),
        ("tokens, of them trained", f"{counts['tokens']:,}, {counts['trained_tokens']:,}"),
        ("trained parameters", f"{counts['trainable_parameters']:,}"),
        ("optimizer steps", f"{result['steps']:,}"),
    ]
    if result["held_out_loss"]:
        before, after = result["held_out_loss"]
        rows.append(("held-out loss before, after", f"{before:.4f}, {after:.4f}"))
    # Manifests of runs before these answers have no such figure.
    if result.get("held_out_accuracy"):
        before, after = result["held_out_accuracy"]
        rows.append(("held-out accuracy before, after", f"{before:.1%}, {after:.1%}"))
    return rows


def _evaluation(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    summary = evaluation["summary"]
    return [
        (key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
        for key, value in summary.items()
        if isinstance(value, int | float | str)
    ]


def _liveness(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    return [
        (
            pair.first,
            pair.second,
            "agree" if pair.should_agree else "differ",
            f"{pair.difference:.4f}",
        )
        for pair in comparisons
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
