"""Inputs are hostile: text made fit for a terminal before it is shown."""

import unicodedata

KEPT = {"\u200c", "\u200d"}
"""Joiners that Persian, Indic scripts and emoji need; they move nothing."""


def safe_for_terminal(text: str) -> str:
    r"""Show control, bidirectional and unassigned characters as ``\x1b``; white space as a space.

    A terminal obeys escape sequences, and U+202E turns the rest of a line around.
    """
    return " ".join("".join(map(_shown, text)).split(" "))


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
