"""Fewer, fuller steps: the same rows per optimizer step in fewer passes through the model.

An optimizer step of 4 rows x 4 accumulation steps takes the gradient of the mean loss over the
labelled tokens of all 16 rows (transformers divides by their number over the whole step). The same
16 rows laid end to end in one pass, each attending to itself only, have the same gradient. A pass
reads every weight, and in a mixture of experts nearly all of them for few tokens as for many; with
folded adapters it writes them anew, too. So one full pass beats four thin ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """How an optimizer step is cut into passes.

    Attributes:
        rows: per pass and device.
        accumulation_steps: passes per optimizer step.
    """

    rows: int
    accumulation_steps: int


def fill_micro_batch(
    lengths: Sequence[int], *, rows: int, accumulation_steps: int, max_tokens: int
) -> MicroBatch:
    """The fewest passes with the same rows per optimizer step and at most ``max_tokens`` a pass.

    Args:
        lengths: tokens of each row of the training file.
        rows: per pass, as asked for.
        accumulation_steps: as asked for; the result divides it.
        max_tokens: what a pass may hold even if the longest rows meet in it.
    """
    longest = sorted(lengths, reverse=True)
    for steps in range(1, accumulation_steps + 1):
        if accumulation_steps % steps:
            continue
        merged = rows * (accumulation_steps // steps)
        if sum(longest[:merged]) <= max_tokens:
            return MicroBatch(merged, steps)
    return MicroBatch(rows, accumulation_steps)
