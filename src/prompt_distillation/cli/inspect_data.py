"""`scripts/inspect_data.py`: what is in inputs and datasets, and what would spoil training."""

from collections.abc import Sequence

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.inspect_config import InspectConfig
from prompt_distillation.data.dataset_files import dataset_paths
from prompt_distillation.data.inputs import gold_path_of

SPOILS_TRAINING = 3

DESCRIPTION = """\
Measure what is in inputs and in a dataset: counts, lengths, duplicates and near-duplicates,
scripts, categories, answers that are empty, cut off or refused, leaks of the prompt and of
reasoning, and keys. Writes a page, NAME.html, and the same as NAME.json.
Exit code 3: something is above its limit, and would spoil a training run.

  python scripts/inspect_data.py --input_file data/inputs.jsonl
  python scripts/inspect_data.py --dataset data/mine.jsonl --task tasks/mine"""


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(InspectConfig, argv, description=DESCRIPTION)
    from prompt_distillation.data.inspection import inspect
    from prompt_distillation.report.inspection_page import (
        check_inspection_outputs,
        inspection_lines,
        write_inspection,
    )
    from prompt_distillation.report.terminal import make_console, print_lines
    from prompt_distillation.tasks import task_files

    read = [config.input_file, config.input_file and gold_path_of(config.input_file)]
    if config.dataset is not None:
        paths = dataset_paths(config.dataset)
        read += [paths.dataset, paths.heldout, paths.records]
    read += task_files(config.task) if config.task else []
    check_inspection_outputs(config.output_file, read)
    found = inspect(config)
    write_inspection(config.output_file, found)
    print_lines(make_console(), [*inspection_lines(found), f"Written to: {config.output_file}"])
    return SPOILS_TRAINING if found.failed else None
