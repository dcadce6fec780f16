"""`scripts/probe.py`: what automatic scores of texts miss."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.probe_config import ProbeConfig

DESCRIPTION = """Measure what automatic scores of texts miss.

  python scripts/probe.py --task tasks/persona --test_file inputs.txt
  python scripts/probe.py --probes perplexity,forgetting

character: share of the answers that a classifier calls in character; pressure: the same under
questions that tempt it out of character; perplexity: of the teacher's answers under the student
before and after; forgetting: perplexity of other text, and how far the student is from its base."""


def main(argv: Sequence[str]) -> int | None:
    """Probe as ``argv`` says: print the tables; the result is written."""
    config = parse_options(ProbeConfig, argv, description=DESCRIPTION)
    from prompt_distillation.evaluation.prober import probe
    from prompt_distillation.report.probe_table import probe_lines
    from prompt_distillation.report.terminal import make_console, print_lines

    console = make_console()
    probes = probe(config, tell=lambda line: print_lines(console, [line]))
    print_lines(console, ["", *probe_lines(probes), "", f"Written to: {config.output_file}"])
    return None
