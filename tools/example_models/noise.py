"""What has no language: handles, tags, links, numbers, emojis, names, source code."""

import random
from collections.abc import Callable

_FIRST = (
    "Anna", "Luis", "Zoë", "Omar", "Mehmet", "Priya", "Linh", "Hans", "Chloé", "Ivan", "Sofía",
    "José", "Björn", "Nguyễn", "Maria", "Elif", "Tom", "Jürgen", "André", "Nikos", "Renée",
    "Jean", "Carla", "Peter", "Lucía", "Søren", "Françoise", "Marco", "Aylin", "Ravi", "Emma",
)  # fmt: skip
_LAST = (
    "Müller", "García", "Dubois", "Smith", "Yılmaz", "Trần", "Petrov", "Rossi", "Weiß", "López",
    "Lefèvre", "Brown", "Kaya", "Phạm", "Jansen", "Silva", "Kowalski", "Wilson", "Moreau", "Öztürk",
)  # fmt: skip
_PLACES = (
    "Paris", "London", "Ankara", "Hanoi", "Roma", "Siemens", "Google", "Wien", "Lyon", "Sevilla",
    "Bosch", "Toyota", "Netflix", "New York", "Zürich", "Kyoto", "Samsung", "Lisboa", "Amazon",
)  # fmt: skip
_TAGS = ("love", "friday", "travel", "cafe", "música", "sommer", "news", "ootd", "tbt", "futbol")
_EMOJI = ("😀", "😅", "🔥", "🎂", "👍", "🚀", "☕", "❤️", "🌧️", "🎉", "🙏", "😂", "🥳", "⚽")
_WORDS = ("total", "count", "x", "i", "items", "user", "value", "n", "data", "key", "name", "flag")
_CALLS = ("run", "load", "save", "push", "map", "update", "check", "init", "filter", "get")


def random_name(rng: random.Random) -> str:
    """A person's, place's or firm's name; the accents in it prove nothing."""
    if rng.random() < 0.35:
        return rng.choice(_PLACES)
    first = rng.choice(_FIRST)
    return f"{first} {rng.choice(_LAST)}" if rng.random() < 0.7 else first


def random_noise(rng: random.Random) -> tuple[str, str]:
    """A token without a language, and what it is."""
    match rng.randrange(6):
        case 0:
            end = rng.choice(["", "_k", "88", ".b", "_tr", "2"])
            return f"@{rng.choice(_FIRST).lower()}{end}", "a handle"
        case 1:
            return f"#{rng.choice(_TAGS)}", "a hashtag"
        case 2:
            link = f"https://{rng.choice(['t.co', 'example.org', 'bit.ly'])}/{rng.choice(_TAGS)}"
            return link + str(rng.randint(1, 99)), "a link"
        case 3:
            number = rng.choice([f"{rng.randint(0, 23)}:{rng.randint(10, 59)}", "3.5", "15/03"])
            return rng.choice([number, str(rng.randint(2, 9999)), "+49 30 123456"]), "a number"
        case 4:
            return rng.choice(_EMOJI) * rng.choice([1, 1, 2, 3]), "an emoji"
        case _:
            return rng.choice(["...", "?!", "***", "---", "!!!", ":)", "(?)"]), "punctuation"


Snippet = Callable[[random.Random], str]


def _w(rng: random.Random) -> str:
    return rng.choice(_WORDS)


CODE_ONLY: tuple[Snippet, ...] = (
    lambda r: f"let {_w(r)} = {_w(r)}.{r.choice(_CALLS)}({_w(r)} => {_w(r)} + {r.randint(1, 9)});",
    lambda r: f"var {_w(r)} = {_w(r)}.{r.choice(_CALLS)}({_w(r)});",
    lambda r: f"for {_w(r)} in {_w(r)}: {r.choice(_CALLS)}({_w(r)})",
    lambda r: f"if ({_w(r)} > {r.randint(0, 99)}) {{ {_w(r)} = {_w(r)}; }}",
    lambda r: f"int {_w(r)} = {r.randint(0, 99)};",
    lambda r: f"return {_w(r)}.{r.choice(_CALLS)}({_w(r)}, {r.randint(0, 9)});",
    lambda r: f"const {_w(r)} = ({_w(r)}, {_w(r)}) => {_w(r)} * {r.randint(2, 9)};",
    lambda r: f"import {_w(r)} from '{_w(r)}';",
    lambda r: f"def {r.choice(_CALLS)}({_w(r)}): return {_w(r)} - 1",
    lambda r: f"SELECT {_w(r)} FROM {_w(r)} WHERE {_w(r)} = {r.randint(1, 9)};",
)
"""Source code with neither a comment nor a string that holds words."""

CODE_AROUND: tuple[tuple[str, Snippet], ...] = (
    ("comment", lambda r: f"{_w(r)} = {r.randint(0, 99)}  # TEXT"),
    ("comment", lambda r: f"{r.choice(_CALLS)}({_w(r)}); // TEXT"),
    ("comment", lambda r: f"if ({_w(r)} == null) {{ return {_w(r)}; }} // TEXT"),
    ("comment", lambda r: f"for i in range({_w(r)}): {_w(r)} += i  # TEXT"),
    ("comment", lambda r: f"SELECT {_w(r)} FROM {_w(r)} WHERE id > {r.randint(1, 9)}; -- TEXT"),
    ("comment", lambda r: f"let {_w(r)} = {r.randint(0, 9)}; /* TEXT */"),
    ("string", lambda r: 'print("TEXT")'),
    ("string", lambda r: f'{r.choice(_CALLS)}("TEXT", {_w(r)});'),
    ("string", lambda r: 'raise ValueError("TEXT")'),
    ("string", lambda r: f'{_w(r)} = "TEXT"'),
)
"""Source code whose comment or string (``TEXT``) is what counts."""
