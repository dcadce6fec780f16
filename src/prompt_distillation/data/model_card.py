"""The model card: what a trained or exported student is, how it was made, how well it does.

Training writes a card, export writes one, and the report adds results to either. They know nothing
of each other, so the card is here, with the other files that they share.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.data.files import atomic_writer
from prompt_distillation.data.intervals import wilson_interval, with_interval
from prompt_distillation.data.results import Result
from prompt_distillation.data.training_files import CARD_FILE, MANIFEST_FILE, TEACHER
from prompt_distillation.data.vllm_flags import serve_line
from prompt_distillation.errors import ModelError

if TYPE_CHECKING:  # takes longer to import than --help may
    from huggingface_hub import EvalResult, ModelCardData

START, END = "<!-- evaluation -->", "<!-- /evaluation -->"
MODEL_FILES = ("adapter_config.json", "config.json")

_SETTINGS = (
    "lora_rank", "lora_alpha", "lora_expert_rank", "lora_targets", "learning_rate",
    "lr_scheduler_type", "warmup_ratio", "num_train_epochs", "max_length", "seed",
)  # fmt: skip


def trained_card(
    name: str, manifest: Mapping[str, Any], adapter_config: Mapping[str, Any] | None = None
) -> str:
    """Render the card of a finished training run: an adapter, or a fully trained model.

    Without ``adapter_config``, PEFT's, it leaves out how vLLM serves the adapter.
    """
    base, config = manifest["base_model"]["name"], manifest["config"]
    is_adapter = config["use_lora"]
    tags = [f"base_model:adapter:{base}", "lora"] if is_adapter else []
    library = "peft" if is_adapter else "transformers"
    kind = "A LoRA adapter" if is_adapter else "A fully trained version"
    return _render(
        _metadata(base, library=library, tags=[*tags, "sft", "trl"]),
        f"# {name}",
        f"{kind} of `{base}`, {_purpose(manifest)}",
        "## Use",
        _loading(name, base, is_adapter=is_adapter),
        *_serving(name, base, adapter_config),
        *_making(manifest),
        f"`{MANIFEST_FILE}` has every setting and version.",
    )


def exported_card(
    name: str,
    manifest: Mapping[str, Any],
    result: Result | None,
    proof: Sequence[tuple[str, str, str, str]],
    *,
    is_quantised: bool,
) -> str:
    """Render the card of a merged checkpoint.

    Args:
        name: title, the folder's name.
        manifest: of the training run.
        result: an evaluation of this student, where there is one.
        proof: pairs of ways to load it, whether they should agree or differ, and their mean
            difference in nats, to show that the adapter is in the weights.
        is_quantised: whether the weights have four bits.
    """
    base = manifest["base_model"]["name"]
    metadata = _metadata(base, library="transformers", tags=["lora-merged"])
    if result is not None:
        metadata.model_name, metadata.eval_results = name, eval_results(result)
    parts = ["# " + name, f"`{base}`, {_purpose(manifest)}"]
    if is_quantised:
        parts.append(
            "The weights of linear layers and experts are 4-bit integers with one scale per group "
            "(compressed-tensors, W4A16), rounded to the nearest value without calibration data."
        )
    parts += _making(manifest)
    if result is not None:
        parts.append(_section(result))
    parts += [
        "## Proof that the adapter is in these weights",
        "Mean absolute difference between the log-probabilities of the same answers, in nats:",
        _table(("one", "other", "expected to", "difference"), proof),
    ]
    return _render(metadata, *parts)


def update_model_card(folder: Path, result: Result) -> Path:
    """Write ``result`` into the card of the model in ``folder``, leaving the rest as it is.

    An evaluation section that an earlier call wrote is replaced.

    Raises:
        ModelError: there is no model in the folder, the card's metadata is not YAML, or
            ``result`` compares the answers with nothing.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD_FILE
    require_model(folder)
    metrics = eval_results(result)
    if not metrics:
        raise ModelError(
            f"the result compares no answer with a {result.truth} answer, so the card would say "
            "nothing; evaluate with --truth gold or teacher"
        )
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {folder.name}\n"
    try:
        # Its checks need the Hub; they are made when the card is pushed.
        card = ModelCard(text, ignore_metadata_errors=True)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: its metadata is not YAML ({error}); correct it") from error
    data: Any = card.data  # its fields are set at run time
    data.model_name, data.eval_results = folder.resolve().name, metrics
    card.text = _with_section(card.text, _section(result))
    with atomic_writer(path) as file:
        file.write(str(card))
    return path


def require_model(folder: Path) -> None:
    """Raise `ModelError` if ``folder`` holds no model, whose card a README.md would be."""
    if not any((folder / name).is_file() for name in MODEL_FILES):
        raise ModelError(
            f"no model at {folder} (neither {' nor '.join(MODEL_FILES)}), so there is no card to "
            "update"
        )


def eval_results(result: Result) -> "list[EvalResult]":
    """The result's metrics as the Hub reads them; none where no answer had a truth."""
    from huggingface_hub import EvalResult

    kind = "text-classification" if result.confusion_matrix else "text-generation"
    return [
        EvalResult(
            task_type=kind,
            task_name=result.task,
            dataset_type=Path(result.test_file).stem,
            dataset_name=Path(result.test_file).name,
            dataset_split=result.split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in _metrics(result)
    ]


def _metrics(result: Result) -> Iterator[tuple[str, str, float]]:
    """Identifier on the Hub, full name, and value of every metric that is known."""
    summary, texts = result.summary, result.text_scores
    if summary.accuracy is not None and summary.accuracy_interval is not None:
        low, high = summary.accuracy_interval.low, summary.accuracy_interval.high
        against = f"against {result.truth} labels, n={summary.evaluated}"
        interval = f"95% CI {low * 100:.1f}-{high * 100:.1f}%"
        yield "accuracy", f"Accuracy ({against}, {interval})", summary.accuracy
        if summary.macro_f1 is not None:
            yield "f1", f"Macro-F1 ({against})", summary.macro_f1
        if result.field_scores is not None:
            yield "f1", f"F1 of the values of objects ({against})", result.field_scores.f1
    if texts is not None:
        against = f"against {texts.reference} texts, n={texts.n}"
        for name, score in texts.compared:
            yield name.lower().removesuffix("-l"), f"{name} ({against})", score.value
    with_teacher = result.truths.student_teacher if result.truths else None
    if with_teacher is not None and with_teacher.accuracy is not None:
        name = f"Agreement with the teacher (n={with_teacher.n})"
        yield "agreement", name, with_teacher.accuracy


def _render(metadata: "ModelCardData", *parts: str) -> str:
    return "\n\n".join([f"---\n{metadata.to_yaml()}\n---", *parts]) + "\n"


def _metadata(base: str, *, library: str, tags: Sequence[str]) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=base,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["prompt-distillation", *tags],
    )


def _loading(name: str, base: str, *, is_adapter: bool) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines += [f'path = "{name}"  # this folder']
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


def _serving(name: str, base: str, adapter_config: Mapping[str, Any] | None) -> Iterator[str]:
    """How vLLM serves an adapter on a GPU."""
    if adapter_config is None:
        return
    yield f"Serve it with `prompt-distillation serve {name}`, or on a GPU with vLLM itself:"
    yield f"```bash\n{serve_line(base, adapter_config, name=name)}\n```"


def _purpose(manifest: Mapping[str, Any]) -> str:
    """What the model learned, and what it must be sent."""
    learned = (
        "to give the answers of a teacher model that works under a prompt"
        if _learned_from_teacher(manifest)
        else f"on the answers in `{_train_file(manifest)}`"
    )
    sent = (
        "It was trained with a system message: send it that, and the user's text."
        if manifest["inputs"].get("with_prompt", False)
        else "It needs neither a prompt nor any thinking: send it the user's text alone."
    )
    return f"fine-tuned {learned}. {sent}"


def _learned_from_teacher(manifest: Mapping[str, Any]) -> bool:
    # Manifests of older runs do not say.
    return bool(manifest["inputs"].get("answers", TEACHER) == TEACHER)


def _train_file(manifest: Mapping[str, Any]) -> str:
    return Path(manifest["config"]["train_file"]).name


def _making(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts, name = manifest["counts"], _train_file(manifest)
    yield "## Data"
    yield (
        f"{counts['rows']:,} chat rows of `{name}` (SHA-256 "
        f"`{manifest['inputs']['train_file_sha256']}`). {counts['held_out_rows']:,} more rows were "
        "held out from training."
    )
    yield "## Settings"
    yield _table(("setting", "value"), _settings(manifest))
    yield "## Training"
    yield _table(("figure", "value"), _figures(manifest))


def _settings(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, batch = manifest["config"], manifest["micro_batch"]
    names = [name for name in _SETTINGS if config["use_lora"] or not name.startswith("lora_")]
    rows = batch["rows"] * batch["accumulation_steps"] * batch["processes"]
    return [
        *((name, str(config[name])) for name in names if config.get(name) is not None),
        ("rows per optimizer step", str(rows)),
        ("base model while training", _precision(config)),
    ]


def _precision(config: Mapping[str, Any]) -> str:
    """How the frozen weights were held, by the run's flags."""
    if not config.get("load_in_4bit", False):
        return "not quantised"
    scales = ", scales in 8 bits" if config["use_bnb_nested_quant"] else ""
    experts = "linear layers and experts" if config["bnb_4bit_experts"] else "linear layers only"
    return f"4 bits ({config['bnb_4bit_quant_type']}{scales}), {experts}"


def _figures(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts, result = manifest["counts"], manifest["result"]
    yield "rows", f"{counts['rows']:,}"
    yield "tokens (trained on)", f"{counts['tokens']:,} ({counts['trained_tokens']:,})"
    yield "trained parameters", f"{counts['trainable_parameters']:,}"
    yield "optimizer steps", f"{result['steps']:,}"
    if result["held_out_loss"]:
        before, after = result["held_out_loss"]
        yield "held-out loss before, after", f"{before:.4f}, {after:.4f} nats per token"
    if result.get("held_out_accuracy"):
        before, after = result["held_out_accuracy"]
        n = _answered(manifest)
        share = with_interval(after, wilson_interval(round(after * n), n))
        # A run that went on from a checkpoint has no figure from before.
        earlier = "" if before is None else f" ({before:.1%} before training)"
        truth = "the teacher" if _learned_from_teacher(manifest) else "the given answers"
        yield f"agreement with {truth} on held-out rows", f"{share}, n={n}{earlier}"


def _answered(manifest: Mapping[str, Any]) -> int:
    answered = manifest["result"].get("held_out_answers")
    # Manifests of older runs have only the limit.
    limit = manifest["config"].get("held_out_answers", 0)
    return int(answered or min(limit, manifest["counts"]["held_out_rows"]))


def _section(result: Result) -> str:
    overlap, truths, similarity = result.overlap, result.truths, result.text_scores
    trained = (
        f"{overlap.texts} of them were used for training"
        if overlap.checked
        else "whether they were used for training is unknown"
    )
    lines = [START, "## Evaluation", ""]
    lines.append(
        f"Task `{result.task}`, `{Path(result.test_file).name}`, split `{result.split}`, "
        f"{result.summary.total_samples} inputs; {trained}. Measured {result.timestamp}."
    )
    if truths is not None:
        rows = [
            (name, with_interval(one.accuracy, one.interval), str(one.n))
            for name, one in truths.named
            if one is not None and one.n
        ]
        lines += ["", _table(("compared", "agreement", "n"), rows)] if rows else []
    if similarity is not None:
        head = (f"similarity to the {similarity.reference} texts", "value", "n")
        rows = [(name, score.shown, str(similarity.n)) for name, score in similarity.compared]
        lines += ["", _table(head, rows)]
    return "\n".join([*lines, "", END])


def _with_section(text: str, section: str) -> str:
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section, text)
    return f"{text.rstrip()}\n\n{section}\n"


def _table(head: Sequence[str], rows: "Iterator[tuple[str, str]] | Sequence[Sequence[str]]") -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
