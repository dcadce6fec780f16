"""Regular expressions of tasks, matched by RE2: no text can make one search forever."""

from functools import lru_cache

import re2


class PatternError(ValueError):
    """A pattern cannot be used; the message says why."""


def without_half_characters(text: str) -> str:
    r"""Replace lone surrogates by U+FFFD: RE2 cannot read them and no file can hold them.

    >>> without_half_characters("a \ud83d b")
    'a \ufffd b'
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@lru_cache(maxsize=256)
def compile_pattern(source: str) -> "re2._Regexp":
    """Compile a pattern."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 * 2**20  # thousands of labels make a long pattern
    try:
        return re2.compile(source, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise PatternError(
            f"cannot be used: {reason}; patterns are RE2's, without lookahead and backreferences"
        ) from error
