"""`scripts/compare.py`: teacher and student side by side, and what they cost."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.data.files import atomic_writer

DESCRIPTION = """Measure teacher and student side by side: accuracy, tokens, latency, cost.

  python scripts/compare.py
  python scripts/compare.py --config recipes/cpu-example-compare.yaml
  python scripts/compare.py --cells teacher,student --price_per_hour 2.5

Cells: teacher (prompt, thinking), teacher_direct (prompt, no thinking), student_prompted (before
distillation, with the prompt), student_before (without it), student (distilled, no prompt),
student_constrained (the same, able to write only a label or JSON by the schema; not by default).
The student's labels are scored too: how well calibrated they are, and what it costs to ask the
teacher where the student is not confident."""


def main(argv: Sequence[str]) -> int | None:
    """Compare as ``argv`` says: print the tables; results and tables are written."""
    config = parse_options(CompareConfig, argv, description=DESCRIPTION)
    from prompt_distillation.evaluation.comparer import compare
    from prompt_distillation.report.comparison_table import comparison_markdown
    from prompt_distillation.report.terminal import make_console, print_lines

    console = make_console()
    comparison = compare(config, tell=lambda line: print_lines(console, [line]))
    table = comparison_markdown(comparison)
    with atomic_writer(config.output_dir / "comparison.md") as file:
        file.write(table)
    print_lines(console, ["", table, f"Written to: {config.output_dir}"])
    return None
