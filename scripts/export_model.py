r"""From adapter to product: a merged checkpoint with a model card, if the adapter proves alive.

::

    python scripts/export_model.py --model_path ./models/prompt_distillation_trl \
        --rows_file ./data/prompt_distillation_lang.heldout.jsonl --output_dir ./models/exported

``--help`` says what it does and lists the flags.
"""

import importlib.util
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prompt_distillation.checkpoints import merge_adapter, resolve_model
from prompt_distillation.cli.options import parse_options
from prompt_distillation.cli.running import run_command
from prompt_distillation.config import Settings, option
from prompt_distillation.data.files import read_json, refuse_to_overwrite
from prompt_distillation.errors import InputError, ModelError

logger = logging.getLogger("export_model")

DESCRIPTION = """\
Merge an adapter, experts included, into a checkpoint that vLLM and transformers load, with a model
card. Before it takes its name, the answers of --rows_file are scored by base, base + adapter,
merged, and (where vLLM runs) the merged checkpoint served by vLLM; a merge that lost a part of the
adapter fails with exit code 2 and leaves nothing behind.

--quantise w4a16 then holds linear layers and experts in four bits and a scale a group
(compressed-tensors; embeddings, router and lm_head stay as they are), and scores that checkpoint
too, against the merged one and in vLLM.

    python scripts/export_model.py --model_path ./models/prompt_distillation_trl --quantise w4a16
"""

ANSWERS = 16
"""Distinct answers scored: more than enough to see a difference."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """Flags of the command."""

    model_path: str = option("./models/prompt_distillation_trl", "folder of the adapter")
    base_model: str | None = option(None, "its base model; none: the one recorded in the adapter")
    output_dir: Path = option(Path("./models/exported"), "folder of the merged checkpoint")
    rows_file: Path = option(
        Path("./data/prompt_distillation_lang.heldout.jsonl"), "chat rows that are scored"
    )
    num_inputs: int = option(32, "rows scored by each way of loading", low=1)
    evaluation_file: Path | None = option(None, "evaluation_results.json, for the model card")
    serve: Literal["auto", "vllm", "none"] = option("auto", "score in vLLM too; auto: where it is")
    quantise: Literal["none", "w4a16"] = option(
        "none", "w4a16: 4-bit weights (compressed-tensors), which vLLM serves on GPUs"
    )
    overwrite: bool = option(False, "replace --output_dir")


def main(argv: Sequence[str]) -> int | None:
    """Merge, prove, describe, and only then give the folder its name."""
    config = parse_options(ExportConfig, argv, description=DESCRIPTION)
    check_files(config)
    refuse_to_overwrite([config.output_dir], overwrite=config.overwrite)
    if config.quantise != "none":
        from prompt_distillation.training.quantisation.export import require_compressed_tensors

        require_compressed_tensors()
    resolved = resolve_model(config.model_path, config.base_model)
    if resolved.adapter is None:
        raise ModelError(f"{config.model_path} is no adapter; there is nothing to merge")
    partial = config.output_dir.with_name(f".{config.output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        export(config, resolved.base, resolved.adapter, partial)
        if config.output_dir.exists():
            shutil.rmtree(config.output_dir)
        partial.replace(config.output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    where = "serve it on a GPU with" if needs_gpu(config, config.output_dir) else "serve it with"
    print(f"exported to {config.output_dir}; {where}: vllm serve {config.output_dir}")
    return None


def check_files(config: ExportConfig) -> None:
    """Raise `InputError` for a file that is not there: merging takes minutes."""
    for flag, path in (
        ("rows_file", config.rows_file), ("evaluation_file", config.evaluation_file),
    ):  # fmt: skip
        if path is not None and not path.is_file():
            raise InputError(f"--{flag}: no such file: {path}")


def export(config: ExportConfig, base: str, adapter: Path, partial: Path) -> None:
    """Write the merged checkpoint and its card to ``partial``.

    Raises:
        ModelError: two ways of loading that should agree do not, or two that should differ agree.
    """
    from prompt_distillation.data.model_card import exported_card
    from prompt_distillation.data.result_files import read_result
    from prompt_distillation.training.lora.liveness import compare

    merge_adapter(base, adapter, partial)
    scores = measure(config, base, adapter, partial)
    comparisons = compare(scores)
    show(comparisons)
    failed = [pair for pair in comparisons if not pair.passes]
    if failed:
        pair = failed[0]
        wanted = "agree" if pair.should_agree else "differ"
        raise ModelError(
            f"{pair.first!r} and {pair.second!r} should {wanted}, and differ by "
            f"{pair.difference:.4f} nats on average (limit {pair.limit:.4f}): the adapter is not "
            "wholly in the exported weights, or was never trained"
        )
    manifest = read_json(adapter / "training_manifest.json")
    result = read_result(config.evaluation_file) if config.evaluation_file else None
    is_quantised = config.quantise != "none"
    card = exported_card(
        config.output_dir.name, manifest, result, comparisons, is_quantised=is_quantised
    )
    (partial / "README.md").write_text(card, encoding="utf-8")


def measure(config: ExportConfig, base: str, adapter: Path, merged: Path) -> dict[str, Any]:
    """Score the rows' answers by every way of loading."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prompt_distillation.data.chat_rows import read_chat_rows
    from prompt_distillation.training.answering import questions
    from prompt_distillation.training.encode import encode_rows, end_of_turn_ids
    from prompt_distillation.training.lora import liveness
    from prompt_distillation.training.quantisation.export import quantise_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    stop_ids = end_of_turn_ids(tokenizer, model.generation_config)
    rows = read_chat_rows(config.rows_file)
    encoded = encode_rows(rows, tokenizer, stop_ids=stop_ids, max_length=model_length(model))
    asked = questions(encoded.rows, limit=config.num_inputs)
    distinct = dict.fromkeys(tuple(q.answer) for q in questions(encoded.rows, limit=len(rows)))
    answers = [list(answer) for answer in distinct][:ANSWERS]
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    scores = liveness.score_adapter(adapted, asked, answers)
    del adapted, model
    scores[liveness.MERGED] = score_saved(merged, asked, answers)
    served = liveness.SERVED
    if config.quantise != "none":
        quantise_checkpoint(merged)
        scores[liveness.QUANTISED] = score_saved(merged, asked, answers)
        served = liveness.SERVED_QUANTISED
        same = liveness.same_best(scores, liveness.MERGED, liveness.QUANTISED)
        print(f"merged and quantised give the same answer to {same:.1%} of {len(asked)} inputs")
    if is_served(config, merged):
        scores[served] = liveness.score_served(merged, asked, answers)
    return scores


def score_saved(folder: Path, asked: Sequence[Any], answers: Sequence[list[int]]) -> Any:
    """The answers' scores by transformers and the checkpoint in ``folder``."""
    from transformers import AutoModelForCausalLM

    from prompt_distillation.training.lora.liveness import score

    return score(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), asked, answers)


def is_served(config: ExportConfig, folder: Path) -> bool:
    """Whether vLLM scores the checkpoint too."""
    if config.serve != "auto":
        return config.serve == "vllm"
    if importlib.util.find_spec("vllm") is None:
        return False
    if needs_gpu(config, folder):
        print("not scored in vLLM: quantised experts need a GPU there, or a CPU with AMX")
        return False
    return True


def needs_gpu(config: ExportConfig, folder: Path) -> bool:
    """Whether vLLM cannot serve the checkpoint on this machine, for want of a GPU or AMX."""
    if config.quantise == "none":
        return False
    import torch
    from transformers import AutoConfig

    from prompt_distillation.training.lora.targets import number_of_experts

    experts = number_of_experts(AutoConfig.from_pretrained(folder))
    # vLLM 0.32, layers/fused_moe/experts/cpu_moe.py.
    runs_here = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    return bool(experts) and not runs_here


def model_length(model: Any) -> int:
    """Longest input in tokens that the model was made for."""
    return int(model.config.get_text_config().max_position_embeddings)


def show(comparisons: Sequence[Any]) -> None:
    """Print the comparisons as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Is the adapter alive? Mean difference of log-probabilities, nats")
    for column in ("one", "other", "should", "difference", "limit", ""):
        table.add_column(column)
    for pair in comparisons:
        table.add_row(
            pair.first, pair.second, "agree" if pair.should_agree else "differ",
            f"{pair.difference:.4f}", f"{pair.limit:.4f}", "ok" if pair.passes else "FAILS",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
