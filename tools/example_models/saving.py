"""Writing a model's folder: weights, tokenizer, model card, manifest; whole or not at all."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from example_models.model_cards import model_card
from prompt_distillation.data.files import write_json
from prompt_distillation.training.export import write_older_keys


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    folder: Path,
    manifest: Mapping[str, object],
) -> None:
    """Write ``folder``, replacing what is there; the weights are rounded to bfloat16.

    Args:
        model: the trained model.
        tokenizer: its tokenizer, with the chat template if it has one.
        folder: where it goes; its name decides the model card.
        manifest: what ``build.json`` says.
    """
    fresh = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.to(torch.bfloat16).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    write_older_keys(fresh)
    write_json(fresh / "build.json", manifest)
    (fresh / "README.md").write_text(model_card(folder.name), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
