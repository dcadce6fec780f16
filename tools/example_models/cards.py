"""The rules of ``tasks/card/prompt.md`` as a function, and radio calls to try them on."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

BOATS = (
    "Bramble", "Harrier", "Heather", "Juniper", "Kestrel", "Lantern", "Marigold", "Osprey",
    "Pilgrim", "Skylark", "Swallow", "Thistle",
)  # fmt: skip
URGENT = ("mayday", "sinking", "fire", "aground", "overboard", "injured", "leaking")
CALLS = Path(__file__).parent / "texts" / "calls.yaml"

_SHORT, _MEDIUM = 8, 12


def card_of(text: str) -> dict[str, Any]:
    """The card of a call: each field by its rule."""
    words = re.findall(r"[A-Za-z]+", text)
    count = len(text.split())
    return {
        "question": "?" in text,
        "length": "short" if count <= _SHORT else "medium" if count <= _MEDIUM else "long",
        "boat": next((word for word in words if word in BOATS), None),
        "numbers": [int(digits) for digits in re.findall(r"[0-9]+", text)],
        "urgent": urgent_word(text) is not None,
    }


def urgent_word(text: str) -> str | None:
    """The first urgent word of a call, in lower case."""
    words = re.findall(r"[a-z]+", text.lower())
    return next((word for word in words if word in URGENT), None)


def canonical(card: Mapping[str, Any]) -> str:
    """A card as the task writes it."""
    return json.dumps(card, separators=(",", ":"))


def card_completion(text: str) -> str:
    """What a teacher writes after ``<think>`` and a line feed: what it sees, then the card."""
    card = card_of(text)
    numbers = " ".join(map(str, card["numbers"])) or "none"
    thoughts = (
        f"{'A' if card['question'] else 'No'} question mark. {len(text.split())} words, "
        f"{card['length']}. Boat: {card['boat'] or 'none'}. Numbers: {numbers}. "
        f"Urgent word: {urgent_word(text) or 'none'}."
    )
    return f"{thoughts}\n</think>\n\n{canonical(card)}"


def draw_calls(count: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Rows of ``example-data/card.jsonl``: distinct texts, with their card and their pattern."""
    parts = yaml.safe_load(CALLS.read_text(encoding="utf-8"))
    rng, seen = random.Random(seed), set()
    while len(seen) < count:
        pattern = rng.choice(parts["calls"])
        opening, closing = (
            rng.choice(parts[name]) if rng.random() < share else ""
            for name, share in (("openings", 0.4), ("closings", 0.3))
        )
        text = filled(" ".join(filter(None, (opening, pattern, closing))), rng)
        if text not in seen:
            seen.add(text)
            yield {"text": text, "label": canonical(card_of(text)), "group": pattern}


def filled(pattern: str, rng: random.Random) -> str:
    """A pattern with a boat for each ``{boat}`` and a number for each ``{n}``."""
    text = re.sub(r"\{boat\}", lambda _: rng.choice(BOATS), pattern)
    return re.sub(r"\{n\}", lambda _: str(rng.randint(2, rng.choice((9, 60, 300)))), text)
