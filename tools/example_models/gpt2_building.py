"""The GPT-2 pair: a larger and a smaller dense model that continue text, for the workflow.

They stand in for GPT-2 Large and GPT-2: no chat template, no reasoning, one special token. Both see
the texts of the 83 training questions of ``quantumbench.jsonl`` without their answers, questions
with answers by rule (`physics`), whose answers are plain text, and JSON records of other things.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from example_models.building import fit_and_save
from example_models.physics import draw_question, draw_record
from example_models.training import Plan, Row
from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.splits import is_held_out

HELD_OUT_SHARE = 0.2
HELD_OUT_SEED = 0

END = "<|endoftext|>"
VOCABULARY_SIZE = 1024
POSITIONS = 512
SHAPES = {
    "teacher": {"n_embd": 192, "n_layer": 4, "n_head": 6},
    "student": {"n_embd": 96, "n_layer": 3, "n_head": 4},
}
PLANS = {
    "teacher": Plan(steps=450, batch_size=24, peak_learning_rate=2e-3, router_loss_weight=0.0),
    "student": Plan(steps=600, batch_size=24, peak_learning_rate=3e-3, router_loss_weight=0.0),
}

_NAMES = (("User", "Assistant"), ("Question", "Answer"), ("Q", "A"))
_INSTRUCTIONS = ("Answer the question.", "One question, one answer.", "Physics: a short test.")
_INSTRUCTION_SHARE = 0.3
# The rest of the documents are the bare texts of questions, and records.
_ANSWERED_SHARE = 0.8
_RECORD_SHARE = 0.1
# Of the documents with an answer, so many have a loss on the answer only.
_ANSWER_ONLY_SHARE = 0.5


def build_gpt2(role: str, inputs: Path, *, folder: Path, seed: int, steps: int | None) -> None:
    """Train and write one model of the pair.

    Args:
        role: ``"teacher"`` or ``"student"``.
        inputs: where ``quantumbench.jsonl`` lies.
        folder: of the model.
        seed: of everything.
        steps: instead of the plan's, to try it.
    """
    questions = [
        row["text"]
        for _, row in read_jsonl(inputs / "quantumbench.jsonl")
        if not is_held_out(row["group"], share=HELD_OUT_SHARE, seed=HELD_OUT_SEED)
    ]
    rng = random.Random(seed + 1)
    tokenizer = train_gpt2_tokenizer(questions, rng)

    def draw_row() -> Row:
        head, answer = _document(questions, rng)
        head_ids = tokenizer(head).input_ids
        ids = [*head_ids, *tokenizer(f"{answer}{END}").input_ids]
        answer_only = answer and rng.random() < _ANSWER_ONLY_SHARE
        return Row(ids=ids, trained_from=len(head_ids) if answer_only else 0)

    fit_and_save(
        new_gpt2(tokenizer, role, seed=seed), tokenizer, draw_row,
        PLANS[role] if steps is None else replace(PLANS[role], steps=steps),
        folder=folder,
        manifest={
            "role": role,
            "seed": seed,
            "held_out": {"share": HELD_OUT_SHARE, "seed": HELD_OUT_SEED},
        },
    )  # fmt: skip


def train_gpt2_tokenizer(questions: Sequence[str], rng: random.Random) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in GPT-2's manner; digits stay apart, and there is no template."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(END, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = ["".join(_document(questions, rng)) for _ in range(3000)]
    tokenizer.train_from_iterator([*questions, *documents], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def new_gpt2(tokenizer: PreTrainedTokenizerFast, role: str, *, seed: int) -> GPT2LMHeadModel:
    """A model with random weights, float32, without dropout."""
    import torch

    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        dtype="float32",
        **SHAPES[role],
    )
    model = GPT2LMHeadModel(config)
    model.generation_config = GenerationConfig(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, do_sample=False
    )
    return model


def _document(questions: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """A text up to where an answer begins, and the answer; a text without one."""
    dice = rng.random()
    if dice > _ANSWERED_SHARE:
        is_record = dice > 1 - _RECORD_SHARE
        return draw_record(rng) if is_record else rng.choice(questions), ""
    question, answer = draw_question(rng)
    asks, replies = rng.choice(_NAMES)
    before = f"{rng.choice(_INSTRUCTIONS)}\n\n" if rng.random() < _INSTRUCTION_SHARE else ""
    return f"{before}{asks}: {question}\n{replies}:", f" {answer}"
