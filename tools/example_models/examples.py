"""A text to train on, with what is known of it: parts in one language each, and noise."""

from dataclasses import dataclass

from example_models.corpus import LABEL_OF_LANGUAGE, UNSPACED

# Where Han is mixed with words, a word is counted as this many characters.
CHARACTERS_PER_WORD = 1.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of one language.

    Attributes:
        language: a code of `LANGUAGE_NAMES`; ``""`` where it is not known, only the label.
        romanised: written in Latin letters instead of its own.
    """

    text: str
    language: str
    romanised: bool = False

    @property
    def count(self) -> int:
        """Words, as the prompt counts them."""
        if self.language in UNSPACED:
            return max(1, round(len(self.text) / CHARACTERS_PER_WORD))
        return len(self.text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A text with its label and what the reasoning may say about it.

    Attributes:
        noise: tokens without a language (handles, names, numbers ...) as ``(token, what it is)``.
        code: ``"comment"``, ``"string"`` or ``"bare"`` where the text is source code.
        kind: the rule that a hard case stands for.
    """

    text: str
    label: str
    parts: tuple[Part, ...] = ()
    noise: tuple[tuple[str, str], ...] = ()
    code: str = ""
    kind: str = ""


def example_of(part: Part) -> Example:
    """A text of one part, with the label of its language."""
    return Example(text=part.text, label=LABEL_OF_LANGUAGE[part.language], parts=(part,))
