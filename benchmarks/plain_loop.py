"""The plain way, to measure against: `generate` of transformers, one input at a time."""

import time
from collections.abc import Sequence
from typing import Any

from prompt_distillation.checkpoints import ResolvedModel
from prompt_distillation.tasks import ChatMessage


def load(model: ResolvedModel, *, merged: bool = False) -> tuple[Any, Any]:
    """Load model and tokenizer with the calls that most scripts make.

    Args:
        model: base and, if any, adapter.
        merged: merge the adapter, or leave it as PEFT loads it.

    Returns:
        The model, on the GPU if there is one, and the tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    language_model = AutoModelForCausalLM.from_pretrained(model.base, dtype="auto")
    if model.adapter is not None:
        from peft import PeftModel

        from prompt_distillation.checkpoints import merged_in_memory

        language_model = (
            merged_in_memory(language_model, model.adapter)
            if merged
            else PeftModel.from_pretrained(language_model, str(model.adapter))
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(str(model.adapter or model.base))
    return language_model.to(device).eval(), tokenizer


def generate_each(
    language_model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[ChatMessage]],
    **options: Any,
) -> float:
    """Answer each conversation with a `generate` of its own.

    Args:
        language_model: as loaded.
        tokenizer: as loaded.
        conversations: the turns of each.
        options: of `generate`, such as `max_new_tokens` and `do_sample`.

    Returns:
        Seconds per conversation.
    """
    import torch

    started = time.perf_counter()
    for conversation in conversations:
        encoded = tokenizer.apply_chat_template(
            [dict(turn) for turn in conversation],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(language_model.device)
        with torch.inference_mode():
            language_model.generate(**encoded, **options)
    return (time.perf_counter() - started) / len(conversations)
