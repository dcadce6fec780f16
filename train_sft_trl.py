"""Fine-tune the student on the labelled data (step 2 of 3).

The reference hyperparameters on one GPU::

    bash train_trl.sh

The same, with flags of your own::

    python train_sft_trl.py --model_name Qwen/Qwen3-4B-Instruct-2507 --output_dir ./models/small

The tiny example student, on a CPU, in a minute::

    python train_sft_trl.py --config recipes/cpu-example-train.yaml

``python train_sft_trl.py --help`` lists the flags. It is `prompt-distillation train` by another
name; the code is in ``src/prompt_distillation/training``.
"""

from scripts.launch import launch

if __name__ == "__main__":
    launch("train")
