"""What makes two pieces of work the same: settings that shape a completion, and an input.

A completion is found again by its key, wherever its input moved in the file and however the file
was sharded. What only judges a completion (the answer pattern, votes, retries, the held-out share)
is not part of the key: changing it costs no new completion.
"""

import hashlib
from dataclasses import dataclass

import orjson

from prompt_distillation.data.inputs import Input
from prompt_distillation.data.splits import Duplicates, input_key
from prompt_distillation.provenance import model_fingerprint
from prompt_distillation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The model that labels and how it is sampled.

    Attributes:
        model: a folder or a hub name; for a server, the name it serves.
        revision: branch, tag or commit on the hub.
        temperature: of an input's first attempt; 0 is greedy.
        top_p: nucleus mass in (0, 1].
        max_tokens: most new tokens of a first attempt, reasoning included.
        max_thinking_tokens: budget of the reasoning, where the engine can hold it to one.
        seed: every request's own seed follows from it.
    """

    model: str
    revision: str | None = None
    temperature: float = 0.15
    top_p: float = 1.0
    max_tokens: int = 4096
    max_thinking_tokens: int | None = None
    seed: int = 0

    def identity(self, task: Task) -> dict[str, object]:
        """All that shapes a completion except the input, as JSON can hold it."""
        fingerprint = model_fingerprint(self.model)
        return {
            "task": task.name,
            "kind": task.kind,
            "prompt_sha256": task.prompt_sha256,
            # A folder's hash, where there is one: the same weights under another path are the same.
            "model": fingerprint.get("sha256", fingerprint["name"]),
            "revision": self.revision,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "max_thinking_tokens": self.max_thinking_tokens,
            "seed": self.seed,
        }


def digest_of(identity: dict[str, object]) -> str:
    """Hexadecimal SHA-256 of an identity."""
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()


class ContentKeys:
    """Keys of inputs under one identity.

    Args:
        identity_digest: of `Teacher.identity`.
        duplicates: whether inputs that differ only in case, white space or compatibility forms
            are one piece of work.
    """

    def __init__(self, identity_digest: str, *, duplicates: Duplicates = "normalised") -> None:
        self._settings = identity_digest
        self._duplicates: Duplicates = duplicates

    def of(self, item: Input) -> bytes:
        """The key of ``item``."""
        return input_key(
            item.text, item.history, duplicates=self._duplicates, settings=self._settings
        )


def request_seed(seed: int, key: bytes, *, vote: int, attempt: int) -> int:
    """The seed of one request, in [0, 2**31): by its content, so that its place does not matter."""
    digest = hashlib.sha256(b"%d:%b:%d:%d" % (seed, key, vote, attempt)).digest()
    return int.from_bytes(digest[:4], "big") >> 1
