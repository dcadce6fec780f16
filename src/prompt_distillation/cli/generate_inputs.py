"""`scripts/generate_inputs.py`: inputs from templates, or grown from a few examples by a model."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.generate_config import GenerateConfig

DESCRIPTION = """\
Make inputs for create_data.py: from templates (--templates), or from a few examples of which a
model makes more (--examples). They are distinct, near-duplicates are refused, and each names its
group (its template, or the examples it grew from), so that labelling holds out whole groups.
Writes NAME.jsonl and NAME.manifest.json, and with a model NAME.journal.jsonl: a run that was
stopped, or one that wants more inputs, continues with what is there.

  python scripts/generate_inputs.py --templates tasks/beethoven/questions.yaml --num_inputs 5000
  python scripts/generate_inputs.py --examples my_examples.txt --task tasks/persona"""


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(GenerateConfig, argv, description=DESCRIPTION)
    from rich.console import Console

    from prompt_distillation.labelling.input_generation import generate_inputs

    generate_inputs(config, console=Console())
    return None
