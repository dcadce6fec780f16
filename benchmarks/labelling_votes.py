"""What voting buys: accuracy against gold and tokens spent at 1, 3, 5 and 9 votes an input.

    python benchmarks/labelling_votes.py                       # the example teacher, 420 inputs
    python benchmarks/labelling_votes.py --temperature 0.7 --max_samples 2101

One journal serves all: more votes add to those that are there. The tokens are those that a run with
so many votes alone would have spent, with and without stopping once the rest cannot change the
majority.
"""

import argparse
import tempfile
from pathlib import Path

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.labelling.pipeline import label
from prompt_distillation.labelling.progress import accuracy_line

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
        settings = {
            "output_file": Path(folder) / "votes.jsonl",
            "progress_seconds": 30.0,
            **vars(arguments),
        }
        print(
            "| votes | requests an input | new tokens an input | full votes would take | accuracy |"
        )
        print("|---|---|---|---|---|")
        single = None
        for num_votes in VOTES:
            config = LabelConfig.of(num_votes=num_votes, overwrite=True, **settings)
            counts = label(config).counts
            assert counts is not None
            spent = counts.completion_tokens / counts.inputs
            single = single or spent
            print(
                f"| {num_votes} | {counts.requests / counts.inputs:.2f} | {spent:.0f} "
                f"| {single * num_votes:.0f} | {accuracy_line(counts)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
