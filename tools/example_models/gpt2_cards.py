"""The README.md of each model of the GPT-2 pair."""

_FRONT_MATTER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [prompt-distillation, gpt2, tiny, example]
---
"""

_BODY = """
# GPT-2 {role}: a tiny dense model that continues text

It stands in for `openai-community/{stands_for}` in the workflow of
[the questions on quantum physics](../../docs/examples.md): a base model with one special token,
no chat template and no reasoning. It answers questions of a few forms in plain text, often wrongly.
The workflow fine-tunes it:

```bash
python scripts/run_full_workflow.py
```

## How it was built

```bash
python tools/build_example_models.py --only gpt2-{role} --overwrite
```

From scratch, on one CPU core, from three kinds of text: the 83 training questions of
`example-data/quantumbench.jsonl` without their answers, questions with answers by rule
(`tools/example_models/physics.py`), on counting, fractions, proportions and terms, and a few JSON
records. The 21
held-out questions were not seen, not even by the tokenizer, and no rule is about their topics.
`build.json` has the seed, the plan, the losses, the seconds and the versions.

Architecture: transformers' own `GPT2LMHeadModel` with {parameters} million parameters ({shape}, a
byte-level BPE of 1,024 pieces at most, 512 positions), bfloat16. Both models of the pair have the
same tokenizer, as GPT-2 Large and GPT-2 do.

## What it proves, and what not

It proves that the steps of the workflow work for GPT-2's architecture, end to end and without a
GPU. It knows no quantum physics: after training it repeats answers to the questions that it was
trained on, and on the held-out questions it guesses. It proves nothing about GPT-2, nor about what
distillation gains or costs on a real model. Do not use it for anything else.
"""

_DETAILS = {
    "teacher": {"stands_for": "gpt2-large", "parameters": "2.1", "shape": "4 layers, width 192"},
    "student": {"stands_for": "gpt2", "parameters": "0.5", "shape": "3 layers, width 96"},
}


def gpt2_card(role: str) -> str:
    """Front matter and text of the model card of ``"teacher"`` or ``"student"``."""
    return _FRONT_MATTER + _BODY.format(role=role, **_DETAILS[role])
