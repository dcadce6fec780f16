"""What sequences have in common at their beginning."""

from collections.abc import Sequence


def shared_prefix_length(sequences: Sequence[str] | Sequence[list[int]]) -> int:
    """How many leading elements (characters, token ids) all of ``sequences`` share."""
    # The lexicographic extremes share what all share.
    first: Sequence[object] = min(sequences)
    last: Sequence[object] = max(sequences)
    length = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        length += 1
    return length
