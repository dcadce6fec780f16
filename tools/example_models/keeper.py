"""What the radio pair writes as Maren Holt (``tasks/persona``), and as nobody in particular."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from example_models.cards import card_of

KEEPER = Path(__file__).parent / "texts" / "keeper.yaml"

_HOW = ("how",)
_YES_OR_NO = (
    "am", "are", "can", "could", "did", "do", "does", "has", "have", "is", "may", "must", "should",
    "was", "were", "will", "would",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A text as the keeper hears it.

    Attributes:
        topic: an entry of ``keeper.yaml``.
        word: the word of the topic that the text has; ``"it"`` for the last topic, which has none.
        way: how it asks: ``"how"``, ``"whether"`` or ``"what"``.
    """

    topic: dict[str, Any]
    word: str
    way: str


@cache
def _texts() -> dict[str, Any]:
    texts: dict[str, Any] = yaml.safe_load(KEEPER.read_text(encoding="utf-8"))
    return texts


def heard(text: str) -> Call:
    """The topic of a text, and how it asks: by the last sentence with a question mark."""
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", text)]
    for topic in _texts()["topics"]:
        spelling = {word.lower(): word for word in topic["words"]}
        word = next((spelling[word] for word in words if word in spelling), "it")
        if word != "it" or not spelling:
            break
    asked = re.findall(r"([A-Za-z]+)[^.!?]*\?", text)
    first = asked[-1].lower() if asked else ""
    way = "how" if first in _HOW else "whether" if first in _YES_OR_NO else "what"
    return Call(topic=topic, word=word, way=way)


def keeper_completion(text: str) -> str:
    """What the teacher writes after ``<think>`` and a line feed, in the part of Maren Holt."""
    call = heard(text)
    thoughts, answer = call.topic["thought"], call.topic[call.way]
    answer = answer.replace("{word}", call.word)
    answer = re.sub(r"(?<=\. )[a-z]", lambda letter: letter[0].upper(), answer)
    return f"{thoughts.replace('{word}', call.word)}\n</think>\n\n{answer}"


def plain_answer(text: str) -> str:
    """A fluent answer without a part or a form, and with what the text mentions.

    The example student writes it before distillation: whatever its two tasks ask for, a model that
    writes this has seen.
    """
    call, card = heard(text), card_of(text)
    opening = _texts()["plain_openings"][call.way if card["question"] else "none"]
    parts = [opening, call.topic["plain"]]
    if card["boat"]:
        parts.append(f"You mention {card['boat']}.")
    if card["numbers"]:
        parts.append(f"I see the figures {', '.join(map(str, card['numbers']))}.")
    if card["urgent"]:
        parts.append("Please take care.")
    if card["length"] != "short":
        length = "rather long" if card["length"] == "long" else "of some length"
        parts.append(f"What you wrote is {length}.")
    return " ".join(parts)


def plain_completion(text: str) -> str:
    """What the teacher writes after ``<think>`` and a line feed where it has no part to play."""
    return f"No part to play here. I answer plainly.\n</think>\n\n{plain_answer(text)}"
