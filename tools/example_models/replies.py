"""What the student writes before distillation: a short sentence in the language of the text.

It never writes a label, so it cannot do the task; but to choose the sentence it has to see what
the task is about.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from example_models.corpus import LANGUAGE_NAMES, Corpus
from example_models.examples import Example, Part
from example_models.reasoning import END
from example_models.spelling import romanise

_POOL_SIZE = 4
_SHORTEST = 12


@dataclass(frozen=True)
class Replies:
    """A few short training sentences for each language."""

    pool: Mapping[str, Sequence[str]]
    rng: random.Random

    def completion(self, example: Example) -> str:
        """The reply and the end of the turn."""
        return f"{self._reply(example)}{END}"

    def _reply(self, example: Example) -> str:
        if example.code == "bare":
            return "x = 0"
        if not example.parts or example.kind == "mixed_tied":
            return "..."
        counts = [part.count for part in example.parts]
        top = [part for part in example.parts if part.count == max(counts)]
        return " / ".join(self._in_language_of(part) for part in top)

    def _in_language_of(self, part: Part) -> str:
        if not part.language:
            # A language with too few training sentences to speak it: an echo.
            return part.text
        sentence = self.rng.choice(self.pool[part.language])
        return romanise(sentence, part.language) if part.romanised else sentence


def choose_replies(corpus: Corpus, rng: random.Random) -> Replies:
    """Draw the pool from the shorter training sentences."""
    pool = {}
    for language in LANGUAGE_NAMES:
        shorter = sorted((s.text for s in corpus.sentences[language]), key=len)[:_SHORTEST]
        pool[language] = rng.sample(shorter, _POOL_SIZE)
    return Replies(pool=pool, rng=rng)
