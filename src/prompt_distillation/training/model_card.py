"""The model card of an exported student: what it is, how it was made, how well it does."""

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_distillation.training.liveness import QUANTISED, Comparison

_RECIPE = (
    "lora_rank", "lora_alpha", "lora_expert_rank", "lora_targets", "learning_rate",
    "lr_scheduler_type", "warmup_ratio", "num_train_epochs", "max_length", "seed",
)  # fmt: skip


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
        f"---\nbase_model: {base}\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        "tags: [prompt-distillation, lora-merged]\n---",
        f"# {name}",
        f"`{base}`, fine-tuned on a thinking teacher's answers so that it gives them without the "
        "teacher's prompt and without thinking. Ask it with the user's text alone.",
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
