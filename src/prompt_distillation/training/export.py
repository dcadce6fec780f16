"""Merge an adapter into its base: a checkpoint and a card, if the adapter changes the outputs."""

import importlib.util
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prompt_distillation.checkpoints import merge_adapter, resolve_model
from prompt_distillation.config import Settings, option
from prompt_distillation.data.files import (
    read_json,
    refuse_to_overwrite,
    refuse_unsafe_outputs,
    write_json,
)
from prompt_distillation.data.locks import hold_lock
from prompt_distillation.data.training_files import CARD_FILE, MANIFEST_FILE
from prompt_distillation.errors import InputError, ModelError
from prompt_distillation.provenance import provenance
from prompt_distillation.training.output_folder import (
    LOCK_FILE,
    failed_writes,
    is_only_locked,
    read_record,
    remove,
)

if TYPE_CHECKING:
    from prompt_distillation.training.lora.merge_check import MergeCheck

logger = logging.getLogger(__name__)

EXPORT_FILE = "export.json"
WRITER = "prompt-distillation export"

ANSWERS = 16
"""Distinct answers scored: more than enough to see a difference."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """Settings of an export."""

    model_path: str = option("./models/prompt_distillation_trl", "folder of the adapter")
    base_model: str | None = option(None, "its base model; none: the one recorded in the adapter")
    output_dir: Path = option(Path("./models/exported"), "folder of the merged checkpoint")
    rows_file: Path = option(
        Path("./data/prompt_distillation_lang.heldout.jsonl"), "chat rows whose answers are scored"
    )
    num_inputs: int = option(32, "rows to score", low=1)
    evaluation_file: Path | None = option(None, "result of evaluate.py to put into the model card")
    serve: Literal["auto", "vllm", "none"] = option(
        "auto", "test in vLLM too; auto: if it runs here"
    )
    quantise: Literal["none", "w4a16"] = option(
        "none", "w4a16: 4-bit weights (compressed-tensors), which vLLM serves on GPUs"
    )
    overwrite: bool = option(False, "replace an earlier export in --output_dir")


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported.

    Attributes:
        output_dir: the merged checkpoint.
        checks: the ways of loading it that were compared, all as expected.
        same_answers: share of inputs to which merged and quantised checkpoint give the same answer;
            None where nothing was quantised.
        needs_gpu: whether vLLM cannot serve it on this machine, for want of a GPU or AMX.
    """

    output_dir: Path
    checks: tuple["MergeCheck", ...]
    same_answers: float | None
    needs_gpu: bool


def export(
    config: ExportConfig, *, on_checks: Callable[[Sequence["MergeCheck"]], None] | None = None
) -> ExportResult:
    """Merge, prove, describe, and only then give the folder its name.

    Raises:
        InputError: there is no file of rows, or no such evaluation.
        ConfigError: the output would destroy an input.
        OutputExistsError: the output is no earlier export, or is one and shall stay.
        ModelError: two ways of loading that should agree do not, or two that should differ agree.
    """
    for flag, file in (
        ("rows_file", config.rows_file),
        ("evaluation_file", config.evaluation_file),
    ):
        if file is not None and not file.is_file():  # merging takes minutes
            raise InputError(f"--{flag}: no such file: {file}")
    if config.quantise != "none":
        from prompt_distillation.training.quantisation.w4a16 import require_compressed_tensors

        require_compressed_tensors()
    resolved = resolve_model(config.model_path, config.base_model)
    if resolved.adapter is None:
        raise ModelError(f"{config.model_path} is a whole model already; pass an adapter's folder")
    place = config.output_dir.resolve()  # `.` has no name
    partial = place.with_name(f".{place.name}.partial")
    base = Path(resolved.base)
    read = [resolved.adapter, base if base.exists() else None]
    read += [config.rows_file, config.evaluation_file]
    refuse_unsafe_outputs([config.output_dir, partial], read, is_ours=_is_export)
    if config.output_dir.is_dir() and any(config.output_dir.iterdir()):
        refuse_to_overwrite([config.output_dir], overwrite=config.overwrite)
    with hold_lock(partial / LOCK_FILE), failed_writes(config.output_dir):
        write_json(partial / EXPORT_FILE, {"written_by": WRITER, "files": []})
        try:
            for path in partial.iterdir():
                if path.name not in {LOCK_FILE, EXPORT_FILE}:
                    remove(path)
            result = _write(config, resolved.base, resolved.adapter, partial, on_checks)
            _replace(config.output_dir, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return result


def _is_export(folder: Path) -> bool:
    """Whether everything in a folder was written by an export."""
    if is_only_locked(folder):
        return True
    record = read_record(folder / EXPORT_FILE, writer=WRITER)
    if record is None:
        return False
    unfinished = not record["files"]  # of one that was killed
    known = {*record["files"], EXPORT_FILE, LOCK_FILE}
    return unfinished or all(path.name in known for path in folder.iterdir())


def _replace(output_dir: Path, partial: Path) -> None:
    """Move a finished export to its place, an earlier one's files out of the way."""
    names = sorted(path.name for path in partial.iterdir() if path.name != LOCK_FILE)
    record = {"written_by": WRITER, "files": names, "provenance": provenance()}
    write_json(partial / EXPORT_FILE, record)
    output_dir.mkdir(parents=True, exist_ok=True)
    for path in output_dir.iterdir():  # nothing but an export: `_is_export`
        remove(path)
    for name in names:
        (partial / name).replace(output_dir / name)


def _write(
    config: ExportConfig,
    base: str,
    adapter: Path,
    partial: Path,
    on_checks: Callable[[Sequence["MergeCheck"]], None] | None,
) -> ExportResult:
    from prompt_distillation.data.model_card import exported_card
    from prompt_distillation.data.result_files import read_result
    from prompt_distillation.training.lora import merge_check

    merge_adapter(base, adapter, partial)
    write_older_keys(partial)
    scores = _measure(config, base, adapter, partial)
    checks = merge_check.check_merge(scores)
    if on_checks is not None:
        on_checks(checks)
    failed = [pair for pair in checks if not pair.passes]
    if failed:
        pair = failed[0]
        raise ModelError(
            f"{pair.first!r} and {pair.second!r} should {pair.expected}, and differ by "
            f"{pair.difference:.4f} nats on average (limit {pair.limit:.4f}): the adapter is not "
            "wholly in the exported weights, or was never trained"
        )
    manifest = read_json(adapter / MANIFEST_FILE)
    evaluation = read_result(config.evaluation_file) if config.evaluation_file else None
    quantised = config.quantise != "none"
    proof = [(one.first, one.second, one.expected, f"{one.difference:.4f}") for one in checks]
    card = exported_card(
        config.output_dir.name, manifest, evaluation, proof, is_quantised=quantised
    )
    (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return ExportResult(
        output_dir=config.output_dir,
        checks=tuple(checks),
        same_answers=merge_check.same_best(scores, merge_check.MERGED, merge_check.QUANTISED)
        if quantised
        else None,
        needs_gpu=_needs_gpu(config, partial),
    )


def write_older_keys(folder: Path) -> None:
    """Let transformers 4 read a checkpoint that transformers 5 has written, and mean the same.

    Version 5 has new names for some settings. Version 4 looks for the old ones only, and where they
    are missing takes its defaults in silence: a rope theta of 10,000, for one (vllm#42624). Both
    are written; version 5 reads either.
    """
    path = folder / "config.json"
    config = read_json(path)
    older: dict[str, Any] = {}
    rope = config.get("rope_parameters") or {}
    by_layer = any(isinstance(value, dict) for value in rope.values())
    whole = rope.get("full_attention", {}) if by_layer else rope
    if "rope_theta" in whole:
        older["rope_theta"] = whole["rope_theta"]
    if whole.get("rope_type", "default") != "default":
        scaling = {key: value for key, value in whole.items() if key != "rope_theta"}
        older["rope_scaling"] = scaling
    if by_layer and "sliding_attention" in rope:  # Gemma 3's name for it
        older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    if "num_local_experts" in config:
        older["num_experts"] = config["num_local_experts"]
    if "dtype" in config:
        older["torch_dtype"] = config["dtype"]
    write_json(path, {**older, **config})

    path = folder / "tokenizer_config.json"
    tokenizer = read_json(path)
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(tokenizer.get("extra_special_tokens"), list):
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    write_json(path, tokenizer)


def _measure(config: ExportConfig, base: str, adapter: Path, merged: Path) -> dict[str, Any]:
    """Score the rows' answers by every way of loading; quantises ``merged`` in between."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prompt_distillation.data.chat_rows import read_chat_rows
    from prompt_distillation.engines.prompts import end_of_turn_ids
    from prompt_distillation.training.encode import encode_rows
    from prompt_distillation.training.held_out_answers import questions
    from prompt_distillation.training.lora import merge_check
    from prompt_distillation.training.quantisation.w4a16 import quantise_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    encoded = encode_rows(
        read_chat_rows(config.rows_file),
        tokenizer,
        stop_ids=end_of_turn_ids(tokenizer, model.generation_config),
        max_length=int(model.config.get_text_config().max_position_embeddings),
    )
    asked = questions(encoded.rows, limit=config.num_inputs)
    labels = (q.answer for q in questions(encoded.rows, limit=len(encoded.rows)))
    answers = [list(answer) for answer in dict.fromkeys(map(tuple, labels))][:ANSWERS]
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    scores = merge_check.score_adapter(adapted, asked, answers)
    del adapted, model

    def saved() -> Any:
        loaded = AutoModelForCausalLM.from_pretrained(merged, dtype="auto").eval()
        return merge_check.score(loaded, asked, answers)

    scores[merge_check.MERGED] = saved()
    served = merge_check.SERVED
    if config.quantise != "none":
        quantise_checkpoint(merged)
        scores[merge_check.QUANTISED] = saved()
        served = merge_check.SERVED_QUANTISED
    if _is_served(config, merged):
        scores[served] = merge_check.score_served(merged, asked, answers)
    return scores


def _is_served(config: ExportConfig, folder: Path) -> bool:
    if config.serve != "auto":
        return config.serve == "vllm"
    if importlib.util.find_spec("vllm") is None:
        return False
    if _needs_gpu(config, folder):
        logger.info("not scored in vLLM: quantised experts need a GPU there, or a CPU with AMX")
        return False
    return True


def _needs_gpu(config: ExportConfig, folder: Path) -> bool:
    if config.quantise == "none":
        return False
    import torch
    from transformers import AutoConfig

    from prompt_distillation.training.lora.adapter import number_of_experts

    experts = number_of_experts(AutoConfig.from_pretrained(folder))
    # vLLM 0.32, layers/fused_moe/experts/cpu_moe.py.
    runs_here = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    return bool(experts) and not runs_here
