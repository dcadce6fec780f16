"""Make inputs: from templates, or from a few examples of which a model makes more.

    python scripts/generate_inputs.py --templates tasks/beethoven/questions.yaml --num_inputs 5000
    python scripts/generate_inputs.py --examples my_examples.txt --task tasks/persona --engine vllm

`python scripts/generate_inputs.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("generate-inputs")
