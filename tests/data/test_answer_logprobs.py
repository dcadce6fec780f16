"""Log-probabilities of answers: packed, in the journal's form, and in their parquet file."""

import math

import numpy as np
import pytest

from prompt_distillation.data.answer_logprobs import (
    ROWS_AT_ONCE,
    AnswerLogprobs,
    LogprobsWriter,
    context_key,
    open_logprobs,
)
from prompt_distillation.errors import InputError

TOKENS = [
    (7, [(7, -0.25), (9, -2.0), (3, -4.0)]),
    (5, [(2, -0.5), (4, -1.5), (6, -3.0), (5, -9.0)]),  # the written one is the fourth
]


def test_the_most_likely_are_kept_and_the_written_one_always():
    packed = AnswerLogprobs.of(TOKENS, top=2)
    assert packed.written == (7, 5)
    ids = [[token for token, _ in row] for row in packed.candidates()]
    assert ids == [[7, 9], [2, 5]]
    kept = [math.exp(-0.25) + math.exp(-2.0), math.exp(-0.5) + math.exp(-9.0)]
    assert np.frombuffer(packed.mass, dtype="<f4") == pytest.approx(kept)


@pytest.mark.parametrize("tokens", [TOKENS, [("de", [("de", -0.1), (" nl", -3.0)])], []])
def test_the_journal_gives_back_what_it_got(tokens):
    packed = AnswerLogprobs.of(tokens, top=3)
    assert AnswerLogprobs.from_row(packed.as_row()) == packed


def test_a_damaged_row_is_seen():
    row = AnswerLogprobs.of(TOKENS, top=2).as_row()
    with pytest.raises(ValueError, match="another number of tokens"):
        AnswerLogprobs.from_row(row | {"written": [7]})


def test_the_file_gives_back_every_vote_in_order(tmp_path):
    path, packed = tmp_path / "x.logprobs.parquet", AnswerLogprobs.of(TOKENS, top=3)
    votes = ROWS_AT_ONCE + 3
    with path.open("wb") as file:
        writer = LogprobsWriter(file, top=3, labels=["de", "nl"], vocabulary="abc")
        for number in range(votes):
            key = context_key([{"role": "user", "content": str(number)}])
            writer.write(key, "de", packed, [0.75, 0.25])
        size = writer.close()
    assert size == path.stat().st_size
    assert writer.tokens == 2 * votes
    known = open_logprobs(path)
    assert (known.top, known.labels, known.vocabulary_sha256) == (3, ("de", "nl"), "abc")
    rows = list(known.rows())
    assert len(rows) == votes
    assert rows[-1].key == context_key([{"role": "user", "content": str(votes - 1)}])
    assert rows[0].ids == [7, 9, 3, 2, 4, 5]
    assert rows[0].logprobs == pytest.approx([-0.25, -2.0, -4.0, -0.5, -1.5, -9.0], rel=1e-3)
    assert rows[0].labels == [0.75, 0.25]


@pytest.mark.parametrize("content", [b"no table", None])
def test_another_file_is_refused(tmp_path, content):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    if content is None:
        pq.write_table(pa.table({"text": ["a"]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="log-probabilities"):
        open_logprobs(path)
