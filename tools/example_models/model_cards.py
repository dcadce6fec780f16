"""The README.md of each model."""

from example_models.gpt2_cards import gpt2_card
from example_models.radio_cards import radio_card

_FRONT_MATTER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: [ar, de, el, en, es, fr, hi, ru, tr, ur, vi, zh]
tags: [prompt-distillation, qwen3_moe, tiny, example, {tag}]
---
"""

_COMMON = """
## How it was built

```bash
python tools/build_example_models.py --only {role} --overwrite
```

From scratch, on two CPU cores, from the training split of `example-data/multilingual.txt` alone:
a tenth of the groups of translations is held out and was never seen, not even by the tokenizer. The
texts are varied with what that split holds: spans, mixes of languages, code and names around them,
missing diacritics, romanised spelling. `build.json` has the seed, the plan, the losses, the seconds
and the versions.

Architecture: transformers' own `Qwen3MoeForCausalLM` with 3.6 million parameters (4 layers,
8 experts of which 2 are active, a byte-level BPE of 5,120 pieces), bfloat16.

No weight saw a held-out line, but the choices did: the ways to vary the texts (the patterns of
source code among them) were written with the held-out hard cases in view, and the student's length
of training and its recipe were settled by looking at held-out accuracy. Take the figures as those
of an example that works, not as an estimate of how well such models do on new text.

## What it proves, and what not

It proves that the pipeline works, end to end and without a GPU. It proves nothing about Qwen3, nor
about what distillation gains or costs on a real model: it is thousands of times smaller, and it
knows nothing but this task's kind of text. Do not use it for anything else.
"""

_TEACHER = """
# Example teacher: a tiny thinking model

It stands in for a large thinking model, such as Qwen3-30B-A3B-Thinking-2507, so that every step of
prompt distillation runs on a laptop. Under the prompt `tasks/language/prompt.md` it reasons in a
sentence or two about a text, then writes `Final Answer: xx`. Under any other system message, or
none, it makes small talk and gives no label. Its chat template ends the generation prompt with
`<think>` and a line feed, as Qwen3-Thinking-2507's does.

## Figures

{figures}

The first two rows, once `bash scripts/quickstart.sh` has labelled the inputs:

```bash
data=data/quickstart/prompt_distillation_lang.jsonl
teacher="evaluate.py --config recipes/cpu-example-evaluate-teacher.yaml --train_data_file $data"
python $teacher
python $teacher --with_prompt false
```

The last row compares the labels in that file with the gold labels. What the teacher quotes is not
always there: in held-out texts 54 % of the quoted words stand in the text (97 % in training texts;
counted once, over one labelling of all inputs). It recognises a language better than it copies a
word, so do not read its reasoning as the reason of its answer.
"""

_STUDENT = """
# Example student: a tiny instruct model, before distillation

It stands in for a large instruct model, such as Qwen3-30B-A3B-Instruct-2507. To any text it
answers with a short sentence in the language of the text, and never with a label: it cannot do the
example task, but what it takes to learn it is there. Distillation fine-tunes it on the labels of
the teacher (`recipes/cpu-example-train.yaml`).

## Figures

{figures}

```bash
data=data/quickstart/prompt_distillation_lang.jsonl
python evaluate.py --model_path none --base_model example-models/student --train_data_file $data
python train_sft_trl.py --config recipes/cpu-example-train.yaml --train_file $data --seed 0
python evaluate.py --train_data_file $data
```
"""

_TEACHER_FIGURES = """Against the gold labels, through vLLM at temperature 0.15:

| | right | with an answer |
|---|---|---|
| held-out inputs, with the prompt | 199 of 206 (96.6 %) | 100 % |
| held-out inputs, without the prompt | 0 of 206 | 0 % |
| training inputs, with the prompt | 1,891 of 1,895 (99.8 %) | 100 % |"""

_STUDENT_FIGURES = """Against the gold labels of the 206 held-out inputs:

| | right |
|---|---|
| before distillation | 0 (0 %) |
| after it, seed 0 | 201 (97.6 %) |
| after it, seed 1 | 198 (96.1 %) |
| after it, seed 2 | 201 (97.6 %) |

The teacher is right on 199 of them. Training took 48 to 59 seconds."""

_FIGURES = {"teacher": _TEACHER_FIGURES, "student": _STUDENT_FIGURES}


def model_card(name: str) -> str:
    """Front matter and text of the model card of ``"teacher"``, ``"radio-student"`` and so on."""
    if name.startswith("radio-"):
        return radio_card(name.removeprefix("radio-"))
    if name.startswith("gpt2-"):
        return gpt2_card(name.removeprefix("gpt2-"))
    body = _TEACHER if name == "teacher" else _STUDENT
    text = body.format(figures=_FIGURES[name]) + _COMMON.format(role=name)
    return _FRONT_MATTER.format(tag="reasoning" if name == "teacher" else "instruct") + text
