"""Texts that are nearly the same: the Jaccard similarity of their sets of characters in a row."""

from typing import Any

from prompt_distillation.data.splits import normalise

SHINGLE_CHARACTERS = 5
"""Length of the pieces that two texts are compared by."""

NEAR = 0.85
"""Similarity from which two texts are near-duplicates, by default.

One other word in a sentence of twelve leaves it below; another article or full stop does not.
"""

_PERMUTATIONS = 128
# Candidates are looked for a little below the threshold: MinHash only estimates the similarity.
_MARGIN = 0.1


def shingles(text: str) -> frozenset[str]:
    """Every piece of `SHINGLE_CHARACTERS` characters of the normalised text.

    >>> sorted(shingles("Hallo Du"))
    ['allo ', 'hallo', 'llo d', 'lo du']
    """
    folded = normalise(text)
    last = max(len(folded) - SHINGLE_CHARACTERS, 0)
    return frozenset(folded[at : at + SHINGLE_CHARACTERS] for at in range(last + 1))


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts' shingles, in [0, 1].

    >>> similarity("Who taught you the organ?", "who taught you  the organ?")
    1.0
    """
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


class NearDuplicates:
    """Tells whether a text nearly repeats an earlier one.

    Candidates come from MinHash with locality-sensitive hashing (datasketch); their similarity is
    then computed exactly, so that what is found is a near-duplicate. About 1 % of the pairs at the
    threshold itself are missed.

    Args:
        threshold: similarity from which two texts are near-duplicates, above 0; 1 finds texts with
            the same shingles only.
    """

    def __init__(self, threshold: float = NEAR) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        estimate = max(threshold - _MARGIN, 0.1)
        # Weights: a missed pair is worse than a candidate too many.
        self._index = MinHashLSH(threshold=estimate, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
        self._texts: list[str] = []

    def has(self, text: str) -> bool:
        """Whether a text nearly repeats an earlier one."""
        return self._has(text, self._sketch(text))

    def add(self, text: str) -> bool:
        """As `has`, and remember the text in any case."""
        sketch = self._sketch(text)
        found = self._has(text, sketch)
        self._remember(text, sketch)
        return found

    def add_if_new(self, text: str) -> bool:
        """As `has`, and remember the text if it repeats none."""
        sketch = self._sketch(text)
        found = self._has(text, sketch)
        if not found:
            self._remember(text, sketch)
        return found

    def _has(self, text: str, sketch: Any) -> bool:
        near = (similarity(text, self._texts[key]) for key in self._index.query(sketch))
        return any(found >= self._threshold for found in near)

    def _remember(self, text: str, sketch: Any) -> None:
        self._index.insert(len(self._texts), sketch, check_duplication=False)
        self._texts.append(text)

    def _sketch(self, text: str) -> Any:
        from datasketch import MinHash

        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([piece.encode("utf-8") for piece in shingles(text)])
        return sketch
