"""Talk to the teacher, with its prompt, and to the student, without: side by side.

    python scripts/chat.py --task tasks/persona --student_path models/persona
    python scripts/chat.py --question "Where were you born?"

`python scripts/chat.py --help` lists every option.
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
    sys.exit(run_script("chat"))
