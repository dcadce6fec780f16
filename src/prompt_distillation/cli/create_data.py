"""`create_data.py`: label inputs with the teacher."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.label_config import LabelConfig

DESCRIPTION = """\
Label inputs with a thinking teacher under the task's prompt, and write a dataset to train a student
on. Every completion is in a journal before it is counted: a run that was stopped continues with the
same command. Writes NAME.jsonl, NAME.heldout.jsonl, NAME.records.jsonl, NAME.rejects.jsonl and
NAME.manifest.json; with --top_logprobs also NAME.logprobs.parquet."""


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(LabelConfig, argv, description=DESCRIPTION)
    from rich.console import Console

    from prompt_distillation.labelling.pipeline import label

    label(config, console=Console())
    return None
