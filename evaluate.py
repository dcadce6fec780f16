"""Step 3: measure the student on inputs that it was not trained on.

    python evaluate.py
    python evaluate.py --max_samples 100
    python evaluate.py --output_file ./evaluation_results.json
    python evaluate.py --model_path ./models/my_custom_model
    python evaluate.py --model_path none        # the base model, before distillation

`python evaluate.py --help` lists every option.
"""

import sys

if __name__ == "__main__":
    try:
        from prompt_distillation.cli.main import run_script
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed for {sys.executable}; run `bash "
            "scripts/install.sh`, then `source .venv/bin/activate`\n"
        )
        sys.exit(2)
    sys.exit(run_script("evaluate"))
