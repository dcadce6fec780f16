"""What voting buys: accuracy against gold and tokens spent at 1, 3, 5 and 9 votes an input.

    python benchmarks/labelling_votes.py                       # the example teacher, 420 inputs
    python benchmarks/labelling_votes.py --temperature 0.7 --max_samples 2101

One journal serves all: more votes add to those that are there. The tokens are those that a run with
so many votes alone would have spent, with and without stopping once the rest cannot change the
majority.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from prompt_distillation.cli.labelling_modes import job_of, open_teacher
from prompt_distillation.cli.options import resolved
from prompt_distillation.labelling.counts import Counts
from prompt_distillation.labelling.label_config import LabelConfig
from prompt_distillation.labelling.run import Reporting, create_dataset
from prompt_distillation.labelling.summary import accuracy_line

VOTES = (1, 3, 5, 9)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="example-models/teacher")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max_tokens", type=int, default=256)
    parser.add_argument("--max_samples", type=int, default=420)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = LabelConfig.of(
            output_file=Path(folder) / "votes.jsonl", progress_seconds=30.0, **vars(arguments)
        )
        print(
            "| votes | requests an input | new tokens an input | full votes would take | accuracy |"
        )
        print("|---|---|---|---|---|")
        single = None
        for num_votes in VOTES:
            counts = label(dataclasses.replace(config, num_votes=num_votes))
            spent = counts.completion_tokens / counts.inputs
            single = single or spent
            print(
                f"| {num_votes} | {counts.requests / counts.inputs:.2f} | {spent:.0f} "
                f"| {single * num_votes:.0f} | {accuracy_line(counts)} |",
                flush=True,
            )


def label(config: LabelConfig) -> Counts:
    """Label with so many votes, on top of what the journal holds."""
    counts = create_dataset(
        job_of(config),
        lambda: open_teacher(config),
        overwrite=True,
        reporting=Reporting(interval_seconds=config.progress_seconds, config=resolved(config)),
    )
    assert counts is not None
    return counts


if __name__ == "__main__":
    main()
