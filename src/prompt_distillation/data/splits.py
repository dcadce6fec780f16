"""Which inputs are the same, which stay together, and which are held out.

Everything follows from hashes of the input itself, so that reruns, shards, labelling and evaluation
agree without asking each other.
"""

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from prompt_distillation.config import Duplicates

KEY_BYTES = 16
"""128 bits: two of a billion inputs share a key with a chance of 2e-21."""


# An input's group, shard and key each ask for it, one after the other.
@functools.lru_cache(maxsize=8)
def normalise(text: str) -> str:
    r"""Fold what does not make two texts different: compatibility forms, case and white space.

    >>> normalise("  Hallo\tWELT ")
    'hallo welt'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def input_key(
    text: str,
    history: Iterable[Mapping[str, Any]] = (),
    *,
    duplicates: Duplicates = "normalised",
    settings: str = "",
) -> bytes:
    """What makes two inputs the same: equal keys mean equal inputs.

    Args:
        text: the user's last turn.
        history: the turns before it, each with its ``role`` and ``content``.
        duplicates: whether texts that differ only as `normalise` folds are the same input, or only
            exact copies. The history must be equal in either case.
        settings: whatever else must be equal, such as the digest of a teacher's settings.
    """
    digest = hashlib.sha256(settings.encode())
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in history]
    if turns:
        digest.update(orjson.dumps(turns))
    # JSON holds no NUL, so that no text can be mistaken for a part of the history.
    digest.update(b"\0")
    digest.update((normalise(text) if duplicates == "normalised" else text).encode())
    return digest.digest()[:KEY_BYTES]


def group_of_text(text: str, history: Iterable[Mapping[str, Any]] = ()) -> str:
    """The group of an input that names none: texts that `normalise` makes equal share it.

    A conversation's group is that of the user's first turn, so that all inputs which were cut from
    one conversation, each a turn longer than the other, are on one side of a split.
    """
    first = next((turn["content"] for turn in history if turn["role"] == "user"), text)
    return hashlib.sha256(normalise(first).encode()).hexdigest()[:16]


def is_held_out(group: str, *, share: float, seed: int) -> bool:
    """Whether a group is kept out of training: by a hash, so that shards and reruns agree."""
    return _unit_hash(f"{seed}:{group}") < share


def shard_of(text: str, *, num_shards: int) -> int:
    """The shard of an input: by its normalised text, so that duplicates meet in one shard."""
    return int(_unit_hash(f"shard:{normalise(text)}") * num_shards)


def _unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
