r"""A judge: a model compares the answers of student and teacher, in both orders.

    python scripts/judge.py --student_file evaluation_results.json --teacher_file teacher.json \
        --model_name Qwen/Qwen3-30B-A3B-Instruct-2507

`python scripts/judge.py --help` lists every option.
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
    sys.exit(run_script("judge"))
