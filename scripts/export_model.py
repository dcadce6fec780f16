r"""Merge an adapter into its base: a checkpoint and a card, if the adapter changes the outputs.

::

    python scripts/export_model.py --model_path ./models/prompt_distillation_trl \
        --rows_file ./data/prompt_distillation_lang.heldout.jsonl --output_dir ./models/exported
    python scripts/export_model.py --model_path ./models/prompt_distillation_trl --quantise w4a16

``--help`` says what it does and lists the flags. It is `prompt-distillation export` by another
name; the code is in ``src/prompt_distillation/training/export.py``.
"""

from launch import launch

if __name__ == "__main__":
    launch("export")
