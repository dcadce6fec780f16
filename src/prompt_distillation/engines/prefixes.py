"""What sequences have in common at their beginning."""

from collections.abc import Sequence
from typing import Any


def shared_prefix_length(sequences: Sequence[Sequence[Any]]) -> int:
    """How many leading elements (characters, token ids) all of ``sequences`` share."""
    # The lexicographic extremes share what all share.
    first, last = min(sequences), max(sequences)
    length = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        length += 1
    return length
