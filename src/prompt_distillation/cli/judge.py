"""`scripts/judge.py`: a model compares the answers of student and teacher."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.judge_config import JudgeConfig

DESCRIPTION = """Let a model compare the answers of student and teacher, in both orders.

  python scripts/judge.py --student_file evaluation_results.json --teacher_file teacher.json \\
      --model_name Qwen/Qwen3-30B-A3B-Instruct-2507
  python scripts/judge.py ... --engine server --server_url http://localhost:8000/v1
  python scripts/judge.py ... --task tasks/persona          with the task's own rubric.md
  python scripts/judge.py ... --human_verdicts_file my.csv  agreement with a person

A run that was stopped continues with the same command."""


def main(argv: Sequence[str]) -> int | None:
    """Judge as ``argv`` says: the judgement is written, then shown."""
    config = parse_options(JudgeConfig, argv, description=DESCRIPTION)
    from prompt_distillation.judging import judge
    from prompt_distillation.report.judge_table import judge_markdown
    from prompt_distillation.report.terminal import make_console, print_lines

    judgement = judge(config)
    lines = ["", *judge_markdown(judgement).splitlines(), "", f"Written to: {config.output_dir}"]
    print_lines(make_console(), lines)
    return None
