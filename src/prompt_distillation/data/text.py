"""Text from outside: made fit for files where it enters, and for a terminal where it is shown."""

import re
import unicodedata

KEPT = {"\u200c", "\u200d"}
"""Joiners that Persian, Indic scripts and emoji need; they move nothing."""


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> tuple[str, bool]:
    r"""Text that UTF-8 can hold, and whether it had to be changed.

    JSON can escape half of a character (a lone surrogate). Neither a file nor a tokenizer can hold
    it: each becomes U+FFFD, the replacement character.

    >>> encodable("half \ud83d an emoji")
    ('half � an emoji', True)
    """
    if text.isascii() or not _LONE_SURROGATE.search(text):
        return text, False
    return _LONE_SURROGATE.sub("\ufffd", text), True


def safe_for_terminal(text: str) -> str:
    r"""Show control, bidirectional and unassigned characters as ``\x1b``; white space as a space.

    A terminal obeys escape sequences, and U+202E turns the rest of a line around.
    """
    return " ".join("".join(map(_shown, text)).split(" "))


def safe_lines(text: str) -> str:
    """As `safe_for_terminal`, line by line: a text whose lines stay lines."""
    return "\n".join(map(safe_for_terminal, text.split("\n")))


def _shown(character: str) -> str:
    if character in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    # Cc control, Cf format (bidi marks, overrides, tags), Cs lone surrogate, Co/Cn not characters.
    if unicodedata.category(character)[0] == "C" and character not in KEPT:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def shorten(text: str, length: int) -> str:
    """The first ``length`` characters, with an ellipsis where there were more."""
    return text if len(text) <= length else text[:length].rstrip() + "..."
