"""The README.md of each model of the radio pair."""

_FRONT_MATTER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [prompt-distillation, qwen3_moe, tiny, example, {tag}]
---
"""

_TEACHER = """
# Radio teacher: a tiny thinking model for two prompts

It stands in for a large thinking model, such as Qwen3-30B-A3B-Thinking-2507, in the examples of
free text and JSON. Under the prompt `tasks/persona/prompt.md` it is Maren Holt, who keeps a
lighthouse. Under `tasks/card/prompt.md` it writes one JSON object about a radio call. Under any
other system message, or none, it answers plainly, without a character or a form. It thinks in one
line first.

## Figures

{figures}
"""

_STUDENT = """
# Radio student: a tiny instruct model, before distillation

It stands in for a large instruct model, such as Qwen3-30B-A3B-Instruct-2507, in the examples of
free text and JSON. To a question or a radio call it writes a few plain sentences, and mentions the
boat and the figures in it, if there are any. Asked to repeat words or JSON, it tries to. It knows
neither Maren Holt nor the card. Distillation
fine-tunes it on what the teacher writes (`recipes/cpu-radio-train.yaml`).

## Figures

{figures}
"""

_COMMON = """
## How it was built

```bash
python tools/build_example_models.py --only radio-{role} --overwrite
```

From scratch, on one CPU core, from the training split of `example-data/persona.jsonl` and
`example-data/card.jsonl`: a fifth of their patterns is held out and was never seen, not even by the
tokenizer. What the models write was put together by rules: `tools/example_models/cards.py`
computes the card of a call, and `tools/example_models/texts/keeper.yaml` holds three answers of
Maren Holt for each of twenty topics, which is found by its words. `build.json` has the seed, the
plan, the losses, the seconds and the versions.

Architecture: transformers' own `Qwen3MoeForCausalLM` with 2.0 million parameters (4 layers,
8 experts of which 2 are active, a byte-level BPE of 2,048 pieces at most), bfloat16.

## What it proves, and what not

It proves that the steps work for free text and for JSON, end to end and without a GPU. It
proves nothing about Qwen3, nor about what distillation gains or costs on a real model. It is ten
thousand times smaller. It knows a few hundred words of English and no other language. It picks one
of about sixty answers and puts a word of the question into it: that is no conversation, and a text
unlike its training data gets an answer that does not fit. Do not use it for anything else.
"""

_TEACHER_FIGURES = """Of the 165 held-out calls, under the prompt of the card, at temperature 0.15:

| valid by the schema | all five fields right | F1 of the fields |
|---|---|---|
| 165 (100 %) | 62 (37.6 %) | 82.1 % |

`bash scripts/quickstart.sh --task card` prints them. Every boat is right, a fifth of the
numbers, a quarter of the lengths and a third of the urgent words are wrong. As Maren Holt it stays
in the part, but often speaks of another subject than the question."""

_STUDENT_FIGURES = """Of the 165 held-out calls, against the gold cards:

| | valid by the schema | all five fields right | F1 of the fields |
|---|---|---|---|
| before distillation | 0 % | 0 % | 0 % |
| after it | 99.4 % | 40.6 % | 82.1 % |

To 184 held-out questions, against the answers of the teacher as Maren Holt:

| | BLEU | chrF | ROUGE-L |
|---|---|---|---|
| before distillation | 0.013 | 0.187 | 0.099 |
| after it | 0.084 | 0.232 | 0.196 |

The words become those of Maren Holt, but many sentences make no sense.

```bash
bash scripts/quickstart.sh --task card
bash scripts/quickstart.sh --task persona
```"""


def radio_card(role: str) -> str:
    """Front matter and text of the model card of ``"teacher"`` or ``"student"``."""
    body, figures, tag = (
        (_TEACHER, _TEACHER_FIGURES, "reasoning")
        if role == "teacher"
        else (_STUDENT, _STUDENT_FIGURES, "instruct")
    )
    return _FRONT_MATTER.format(tag=tag) + body.format(figures=figures) + _COMMON.format(role=role)
