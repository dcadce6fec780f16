"""What labelling costs beside the teacher: a null engine, a million inputs, from file to dataset.

    python benchmarks/labelling_overhead.py --rows 1000000

Prints rows a second end to end (read and checked, journalled, written as a dataset) and the peak
memory of the process; both by the clock and by the processor's time, which a busy machine leaves
alone. Then the same again with the journal already full: what resuming a finished run costs.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.engines.base import Completion, Engine, Request
from prompt_distillation.labelling.pipeline import label

ROOT = Path(__file__).parents[1]

REASONING = (
    "The text is written in the Latin script. Its function words and the accents on its vowels are "
    "French, no other language is mixed in, and it is no name and no code.\n</think>\n\n"
    "Final Answer: fr"
)


class NullEngine:
    """Answers at once, and always the same."""

    name = "null"
    concurrency = 512

    def __init__(self) -> None:
        self.completion = Completion(
            text=REASONING,
            finish_reason="stop",
            prompt_tokens=2200,
            completion_tokens=48,
            seconds=0.0,
            cached_tokens=2144,
        )

    async def complete(self, request: Request) -> Completion:
        """The same completion for every request."""
        return self.completion

    async def aclose(self) -> None:
        """There is nothing to free."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        """This engine, as `label` opens one."""
        yield self


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.rows)


def measure(folder: Path, rows: int) -> None:
    """Label ``rows`` inputs in ``folder``, twice."""
    inputs = folder / "inputs.txt"
    with inputs.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(
                f"Voici la phrase numéro {number}, qui parle de la pluie et du beau temps.\n"
            )
    config = LabelConfig.of(
        task=ROOT / "tasks" / "language",
        input_file=inputs,
        output_file=folder / "out.jsonl",
        model_name="null",
    )
    for what in ("labelled", "rebuilt from the journal"):
        clock, processor = time.perf_counter(), time.process_time()
        counts = label(config, open_teacher=NullEngine().open).counts
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        assert counts is not None
        assert counts.train + counts.held_out == rows
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{what}: {rows:,} rows in {clock:.1f} s, {rows / clock:,.0f} rows/s by the clock, "
            f"{rows / processor:,.0f} rows/s of processor time, peak memory {peak:,.0f} MiB"
        )
        config.output_file.unlink()


if __name__ == "__main__":
    main()
