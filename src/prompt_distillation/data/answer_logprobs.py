"""The teacher's log-probabilities of its answers: ``NAME.logprobs.parquet``, a row for each vote.

::

    key        SHA-256 of the conversation that the student sees, its first 16 bytes
    answer     what was read out of the vote: the canonical form, as in ``NAME.jsonl``
    written    token ids of what the teacher wrote after its reasoning, end of turn included
    ids        of each written token's most likely alternatives: `top` a token, laid end to end
    logprobs   of the same, in nats, float16; before temperature and top_p
    mass       probability of a token's alternatives together, added up before they are rounded
    labels     probability of each label, in the order of the metadata; empty where there are none

A place without an alternative has the id -1. `written` and `ids` are empty where a server names no
token ids. The metadata hold ``top``, ``labels`` and ``vocabulary_sha256``.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import orjson

from prompt_distillation.errors import InputError
from prompt_distillation.tasks import ChatMessage

ROWS_AT_ONCE = 1024

_FIELD = "prompt_distillation"

Candidates = Sequence[tuple[int | str, float]]
"""Tokens (ids, or texts where a server names no ids) and their log-probabilities in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerLogprobs:
    """Log-probabilities of the tokens that a model wrote after its reasoning.

    Attributes:
        top: how many alternatives of each token were asked for.
        written: the tokens, ids or texts.
        ids: int32, tokens x ``top`` in bytes; -1 where there are fewer. Empty without ids.
        texts: of each token, the texts of its alternatives; empty where there are ids.
        logprobs: float16, as ``ids``; -inf where there are fewer.
        mass: float32, a number a token: the probability of its alternatives together, added up
            before they are rounded.
    """

    top: int
    written: tuple[int | str, ...]
    ids: bytes
    texts: tuple[tuple[str, ...], ...]
    logprobs: bytes
    mass: bytes

    @classmethod
    def of(cls, tokens: Sequence[tuple[int | str, Candidates]], *, top: int) -> Self:
        """Pack ``tokens``: each that was written, with its most likely alternatives.

        Of these, the ``top`` most likely are kept, the one that was written always.
        """
        import numpy as np

        ids = np.full((len(tokens), top), -1, dtype="<i4")
        logprobs = np.full((len(tokens), top), -np.inf, dtype="<f2")
        mass = np.zeros(len(tokens), dtype="<f4")
        texts = []
        for row, (written, candidates) in enumerate(tokens):
            ranked = sorted(dict(candidates).items(), key=lambda pair: -pair[1])
            kept = ranked[:top]
            if written not in dict(kept):
                kept[top - 1 :] = [pair for pair in ranked if pair[0] == written]
            logprobs[row, : len(kept)] = [logprob for _, logprob in kept]
            mass[row] = min(1.0, math.fsum(math.exp(logprob) for _, logprob in kept))
            if isinstance(written, str):
                texts.append(tuple(str(text) for text, _ in kept))
            else:
                ids[row, : len(kept)] = [token for token, _ in kept]
        return cls(
            top=top,
            written=tuple(written for written, _ in tokens),
            ids=b"" if texts else ids.tobytes(),
            texts=tuple(texts),
            logprobs=logprobs.tobytes(),
            mass=mass.tobytes(),
        )

    @property
    def has_ids(self) -> bool:
        """Whether tokens are known by their ids."""
        return not self.texts

    def candidates(self) -> list[list[tuple[int | str, float]]]:
        """The alternatives of each token, most likely first."""
        import numpy as np

        logprobs = np.frombuffer(self.logprobs, dtype="<f2").reshape(-1, self.top).tolist()
        names: Sequence[Sequence[int | str]] = (
            np.frombuffer(self.ids, dtype="<i4").reshape(-1, self.top).tolist()
            if self.has_ids
            else self.texts
        )
        return [
            [(name, value) for name, value in zip(row, values, strict=False) if name != -1]
            for row, values in zip(names, logprobs, strict=True)
        ]

    def mean_logprob(self) -> float | None:
        """Of the tokens that were written, in nats a token; None without any."""
        found = zip(self.written, self.candidates(), strict=True)
        logprobs = [dict(candidates)[token] for token, candidates in found]
        return math.fsum(logprobs) / len(logprobs) if logprobs else None

    def as_row(self) -> dict[str, Any]:
        """As the journal holds it: the numbers in base64, which takes half the room of JSON's."""
        row = {
            "top": self.top,
            "written": list(self.written),
            "logprobs": base64.b64encode(self.logprobs).decode(),
            "mass": base64.b64encode(self.mass).decode(),
        }
        return row | (
            {"ids": base64.b64encode(self.ids).decode()} if self.has_ids else {"texts": self.texts}
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """What `as_row` wrote.

        Raises:
            ValueError, KeyError, TypeError: it did not.
        """
        made = cls(
            top=int(row["top"]),
            written=tuple(row["written"]),
            ids=base64.b64decode(row.get("ids", "")),
            texts=tuple(tuple(texts) for texts in row.get("texts", ())),
            logprobs=base64.b64decode(row["logprobs"]),
            mass=base64.b64decode(row["mass"]),
        )
        tokens = len(made.written)
        sizes = (len(made.mass), len(made.logprobs), len(made.ids or made.logprobs * 2))
        if sizes != (4 * tokens, 2 * tokens * made.top, 4 * tokens * made.top):
            raise ValueError("log-probabilities of another number of tokens")
        return made


class VoteRow(NamedTuple):
    """A row of the file; see the module."""

    key: bytes
    answer: str
    written: list[int]
    ids: list[int]
    logprobs: list[float]
    mass: list[float]
    labels: list[float]


def context_key(context: Sequence[Mapping[str, Any]] | Sequence[ChatMessage]) -> bytes:
    """What a vote and a chat row have in common: the conversation that the student sees."""
    turns = [[turn["role"], turn["content"]] for turn in context]
    return hashlib.sha256(orjson.dumps(turns)).digest()[:16]


def vocabulary_sha256(tokenizer: Any) -> str:
    """Hexadecimal SHA-256 of a tokenizer's ids and tokens: equal ids mean equal tokens."""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(orjson.dumps(tokens)).hexdigest()


class LogprobsWriter:
    """Writes the file, in parts of `ROWS_AT_ONCE`, so that memory does not grow with it.

    Args:
        file: open for writing bytes.
        top: alternatives of each token.
        labels: the task's; empty where it has none.
        vocabulary: `vocabulary_sha256` of the teacher; None where a server does not tell.
    """

    def __init__(
        self, file: IO[bytes], *, top: int, labels: Sequence[str], vocabulary: str | None
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        metadata = {"top": top, "labels": list(labels), "vocabulary_sha256": vocabulary}
        self._file = file
        self._schema = pa.schema(
            [
                ("key", pa.binary(16)),
                ("answer", pa.string()),
                ("written", pa.list_(pa.int32())),
                ("ids", pa.list_(pa.int32())),
                ("logprobs", pa.list_(pa.float16())),
                ("mass", pa.list_(pa.float32())),
                ("labels", pa.list_(pa.float32())),
            ],
            metadata={_FIELD: json.dumps(metadata)},
        )
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[VoteRow] = []
        self.votes = self.tokens = 0

    def write(
        self, key: bytes, answer: str, scores: AnswerLogprobs, labels: Sequence[float]
    ) -> None:
        """Add a vote for ``answer``, with the probabilities of the labels."""
        import numpy as np

        has_ids = scores.has_ids
        self.votes += 1
        self.tokens += len(scores.written)
        self._waiting.append(
            VoteRow(
                key,
                answer,
                [int(token) for token in scores.written] if has_ids else [],
                np.frombuffer(scores.ids, dtype="<i4").tolist(),
                list(np.frombuffer(scores.logprobs if has_ids else b"", dtype="<f2")),
                list(np.frombuffer(scores.mass if has_ids else b"", dtype="<f4")),
                list(labels),
            )
        )
        if len(self._waiting) == ROWS_AT_ONCE:
            self._flush()

    def close(self) -> int:
        """Finish the file; returns its size in bytes."""
        self._flush()
        self._writer.close()
        return int(self._file.tell())

    def _flush(self) -> None:
        import pyarrow as pa

        columns = {
            name: pa.array([getattr(row, name) for row in self._waiting], type=kind)
            for name, kind in zip(self._schema.names, self._schema.types, strict=True)
        }
        if self._waiting:
            self._writer.write_table(pa.table(columns, schema=self._schema))
        self._waiting = []


@dataclass(frozen=True, kw_only=True, slots=True)
class LogprobsFile:
    """What `LogprobsWriter` wrote. Use `open_logprobs`.

    Attributes:
        top: alternatives of each token.
        labels: the task's; empty where it has none.
        vocabulary_sha256: of the teacher; None where no token ids are known.
    """

    path: Path
    top: int
    labels: tuple[str, ...]
    vocabulary_sha256: str | None

    def rows(self) -> Iterator[VoteRow]:
        """Every vote, in the order of the inputs."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from map(VoteRow._make, zip(*(c.to_pylist() for c in batch), strict=True))


def open_logprobs(path: Path) -> LogprobsFile:
    """Read what is known of all rows of the file.

    Raises:
        InputError: it is not such a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        known = (pq.read_schema(path).metadata or {}).get(_FIELD.encode())
        metadata = json.loads(known) if known else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a parquet file of log-probabilities ({error})") from error
    if metadata is None:
        raise InputError(f"{path}: not a file of log-probabilities; create_data.py writes one")
    return LogprobsFile(
        path=path,
        top=metadata["top"],
        labels=tuple(metadata["labels"]),
        vocabulary_sha256=metadata["vocabulary_sha256"],
    )
