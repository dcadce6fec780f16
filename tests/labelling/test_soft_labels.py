"""What labelling keeps for soft labels: distributions over labels, and a file that survives."""

import dataclasses
import math

import pytest
from labelling.scripted import ScriptedEngine, completion, dice, settings, write_inputs

from prompt_distillation.data.answer_logprobs import AnswerLogprobs, context_key, open_logprobs
from prompt_distillation.data.files import read_json, read_jsonl
from prompt_distillation.errors import ConfigError
from prompt_distillation.labelling.pipeline import label
from prompt_distillation.labelling.soft_labels import label_distribution

SERVER = {"engine": "server", "server_url": "http://localhost:1/v1", "top_logprobs": 4}


def scored(written, **alternatives):
    """A token and its alternatives; underscores stand for spaces."""
    pairs = {text.replace("_", " "): math.log(share) for text, share in alternatives.items()}
    return written, list(pairs.items())


@pytest.mark.parametrize(
    ("written", "labels", "before", "tokens", "expected"),
    [
        # A space before the label, also where an alternative has none.
        ("de", ["de", "nl"], " ", [scored(" de", _de=0.6, _nl=0.1, nl=0.1)], [0.75, 0.25]),
        # A label of two tokens: the first is shared by two labels, the second decides.
        (
            "nl", ["nl", "no", "de"], "",
            [scored("n", n=0.8, de=0.2), scored("l", l=0.75, o=0.25)],
            [0.6, 0.2, 0.2],
        ),
        # An alternative that begins two labels gives each half.
        ("de", ["de", "nl", "no"], "", [scored("de", de=0.5, n=0.4)], [5 / 9, 2 / 9, 2 / 9]),
        # What is no label, and what goes on behind one, is left out.
        ("de", ["de", "nl"], "", [scored("de", de=0.5, I=0.2, nla=0.2, nl=0.1)], [5 / 6, 1 / 6]),
        # A label that another one begins with: the next token decides.
        (
            "zh", ["zh", "zh-tw"], "",
            [scored("zh", zh=1.0), scored("!", **{"!": 0.7, "-": 0.3})],
            [0.7, 0.3],
        ),
        ("de", ["de", "nl"], "", [], [1.0, 0.0]),
    ],
)  # fmt: skip
def test_the_probability_of_each_label(written, labels, before, tokens, expected):
    found = label_distribution(written, labels, tokens, before)
    assert list(found) == labels
    assert list(found.values()) == pytest.approx(expected)


def moody(request):
    """French or German, with what the teacher thinks of both."""
    label, other = ("fr", "de") if dice(request) % 3 else ("de", "fr")
    made = completion(f"So.\n</think>\n\nFinal Answer: {label}")
    top = request.sampling.top_logprobs
    if not top:
        return made
    tokens = [scored(text, **{text: 1.0}) for text in ("\n\n", "Final", " Answer", ":")]
    tokens.append(scored(f" {label}", **{f" {label}": 0.8, f" {other}": 0.2}))
    tokens.append(scored("<end>", **{"<end>": 1.0}))
    return dataclasses.replace(made, logprobs=AnswerLogprobs.of(tokens, top=top))


def label_moodily(folder, **values):
    """Label what is in ``folder``; returns the result, and who was asked."""
    engine = ScriptedEngine(moody)
    return label(settings(folder, **values), open_teacher=engine.open), engine


def votes_of(folder):
    file = open_logprobs(folder / "out.logprobs.parquet")
    found = {}
    for row in file.rows():
        shares = dict(zip(file.labels, row.labels, strict=True))
        found.setdefault(row.key, []).append((row.answer, shares))
    return found


def test_every_vote_with_an_answer_is_kept_for_its_row(tmp_path):
    write_inputs(tmp_path, 12)
    result, _ = label_moodily(tmp_path, num_votes=3, temperature=0.7, **SERVER)
    found = votes_of(tmp_path)
    records = [row for _, row in read_jsonl(tmp_path / "out.records.jsonl")]
    assert len(found) == len(records) == 12
    for record in records:
        votes = found[context_key([{"role": "user", "content": record["text"]}])]
        answers = [answer for answer, _ in votes]
        assert {a: answers.count(a) for a in answers} == record["votes"]
        for answer, shares in votes:
            assert shares[answer] == pytest.approx(0.8, abs=1e-3)
            assert sum(shares.values()) == pytest.approx(1.0)
        assert "votes_with_logprobs" not in record
    counts = read_json(result.manifest)["counts"]
    assert counts["logprob_tokens"] == 6 * sum(map(len, found.values()))
    assert counts["logprob_bytes"] == (tmp_path / "out.logprobs.parquet").stat().st_size


def test_duplicates_have_the_votes_of_their_first(tmp_path):
    (tmp_path / "inputs.txt").write_text("one\nONE\ntwo\n" + "x\n" * 20)
    _, engine = label_moodily(tmp_path, held_out=0.0, **SERVER)
    assert len(engine.requests) == 3
    found = votes_of(tmp_path)
    first, second = (found[context_key([{"role": "user", "content": t}])] for t in ("one", "ONE"))
    assert first == second


def test_a_run_that_stopped_ends_with_the_same_file(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        write_inputs(folder, 30)
    label_moodily(whole, **SERVER)
    label_moodily(stopped, **SERVER)
    for name in ("out.jsonl", "out.manifest.json", "out.logprobs.parquet"):
        (stopped / name).unlink()
    journal = stopped / "out.journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-700])  # some completions, and a torn line
    _, engine = label_moodily(stopped, **SERVER)
    assert 0 < len(engine.requests) < 30
    name = "out.logprobs.parquet"
    assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_completions_without_log_probabilities_are_asked_for_again_and_kept(tmp_path, caplog):
    write_inputs(tmp_path, 10)
    label_moodily(tmp_path)
    again = SERVER | {"overwrite": True}
    _, engine = label_moodily(tmp_path, **again)
    assert len(engine.requests) == 10
    assert "10 completions have no log-probabilities for --top_logprobs 4" in caplog.text
    # Fewer than there are cost nothing, and none remove the file.
    _, engine = label_moodily(tmp_path, **again | {"top_logprobs": 2})
    assert not engine.requests
    _, engine = label_moodily(tmp_path, overwrite=True)
    assert not engine.requests
    assert not (tmp_path / "out.logprobs.parquet").exists()


def test_texts_over_a_server_are_refused_before_anything_is_asked(tmp_path):
    write_inputs(tmp_path, 3)
    task = tmp_path / "task"
    task.mkdir()
    (task / "task.yaml").write_text("kind: text\n")
    (task / "prompt.md").write_text("Say it in French.")
    with pytest.raises(ConfigError, match="names tokens by their texts"):
        label_moodily(tmp_path, task=task, **SERVER)
