"""`scripts/improve.py`: rounds of labelling what the student is weak at, and training on."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config.improve_config import ImproveConfig

if TYPE_CHECKING:
    from prompt_distillation.data.improvement import Improvement, Round
    from prompt_distillation.data.intervals import Estimate

DESCRIPTION = """\
Improve a student in rounds: choose inputs that it is unsure of, let the teacher label them, train
on from its adapter, and measure it on the held-out inputs of its dataset. Ends when the gain is
inside the noise, a budget is spent, or no input is left.

  python scripts/improve.py --pool my_inputs.txt              the student in --student_path
  python scripts/improve.py --pool my_inputs.txt --max_teacher_tokens 1000000
  python scripts/improve.py --write_inputs 500                the teacher writes new inputs

The teacher labels as it labelled the student's dataset, and the rounds train as the student was
trained; both are in their manifests. A run that was stopped continues with the same command."""

HEADS = (
    "round", "labelled", "new rows", "old rows", "teacher tokens", "{metric} (95 %)", "gain (95 %)",
)  # fmt: skip


def main(argv: Sequence[str]) -> int | None:
    """Improve as ``argv`` says: each round is written, then all are shown."""
    config = parse_options(ImproveConfig, argv, description=DESCRIPTION)
    # Imported only now: scientific libraries take longer than --help may.
    from prompt_distillation.improving import improve
    from prompt_distillation.report.terminal import make_console, print_lines

    made = improve(config)
    print_lines(make_console(), ["", *result_lines(made), f"Written to: {config.output_dir}"])
    return None


def result_lines(made: "Improvement") -> Iterator[str]:
    """What is shown: a row for each round, why it ended, and the best student."""
    rows = [[head.format(metric=made.metric) for head in HEADS], ["---"] * len(HEADS)]
    rows += [list(_cells(one)) for one in made.rounds]
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
    yield f"Ended: {made.stopped}. Measured on {made.held_out:,} held-out inputs."
    best = made.best
    if made.total_gain is None:
        yield "No round is better than the student to begin with."
    else:
        interval = made.total_gain.interval
        is_noise = interval is None or interval.low <= 0
        yield (
            f"Best: round {best.number}, {_points(made.total_gain)} points over the student to "
            f"begin with{', which is inside the noise' if is_noise else ''}: {best.student}"
        )


def _cells(one: "Round") -> Iterator[str]:
    yield str(one.number)
    for count in (one.asked, one.new_rows, one.old_rows, one.teacher_tokens):
        yield f"{count:,}" if one.number else "-"
    interval = one.score.interval
    shown = f" ({interval.low * 100:.1f}-{interval.high * 100:.1f})" if interval else ""
    yield f"{one.score.value:.1%}{shown}"
    yield f"{_points(one.gain)} over round {one.compared_with}" if one.gain else "-"


def _points(gain: "Estimate") -> str:
    """A difference in percentage points: ``+1.9 (+0.5 to +3.3)``."""
    interval = gain.interval
    shown = f" ({interval.low * 100:+.1f} to {interval.high * 100:+.1f})" if interval else ""
    return f"{gain.value * 100:+.1f}{shown}"
