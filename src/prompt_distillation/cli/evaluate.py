"""`evaluate.py`: measure a model on held-out inputs."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.evaluate_config import EvaluateConfig

DESCRIPTION = """Measure a model on held-out inputs: accuracy, confusion, agreement, tokens.

  evaluate.py                                       the distilled student
  evaluate.py --max_samples 100                     a quick check
  evaluate.py --model_path none                     the base model alone
  evaluate.py --model_path none --base_model Qwen/Qwen3-30B-A3B-Thinking-2507 \\
      --with_prompt --thinking --temperature 0.15   the teacher"""

GATE_CODES = {"passed": 0, "failed": 3, "undecided": 4}
"""Exit codes of the deployment gate; 2 is a user's error, as everywhere."""


def main(argv: Sequence[str]) -> int | None:
    """Evaluate as ``argv`` says: print a line per input, then the tables; write the result."""
    config = parse_options(EvaluateConfig, argv, description=DESCRIPTION)
    from prompt_distillation.data.result_files import check_output, write_result
    from prompt_distillation.evaluation.evaluator import evaluate
    from prompt_distillation.report.terminal import Stream, make_console, print_result

    test = config.test
    from prompt_distillation.tasks import task_files

    read = [test.test_file, test.ground_truth_file, test.train_data_file, *task_files(test.task)]
    check_output(config.output_file, [*read, config.predictions_file, config.gate.baseline])
    console = make_console()
    stream = Stream(console, quiet=config.quiet)
    result = evaluate(config, on_prediction=stream.show)
    stream.finish()
    aside = write_result(config.output_file, result)
    print_result(console, result, output_file=config.output_file)
    if aside:
        console.print(f"   The previous result is kept as: {aside}", soft_wrap=True)
    if result.gate is None:
        return None
    reasons = "; ".join(result.gate.reasons)
    console.print(f"\nGATE {result.gate.status.upper()}: {reasons}", soft_wrap=True)
    return GATE_CODES[result.gate.status]
