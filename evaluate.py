"""Step 3: measure the student on inputs that it was not trained on.

    python evaluate.py
    python evaluate.py --max_samples 100
    python evaluate.py --output_file ./evaluation_results.json
    python evaluate.py --model_path ./models/my_custom_model
    python evaluate.py --model_path none        # the base model, before distillation

`python evaluate.py --help` lists every option.
"""

from scripts.launch import launch

if __name__ == "__main__":
    launch("evaluate")
