"""Soft labels: the loss against a plain computation, targets against counting, runs as a user's."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.killed_training import train_until_killed
from training.tiny_student import LABELS, build_tokenizer, save_student, write_rows

from prompt_distillation.cli.train import main
from prompt_distillation.data.answer_logprobs import (
    AnswerLogprobs,
    LogprobsWriter,
    VoteRow,
    context_key,
    vocabulary_sha256,
)
from prompt_distillation.data.files import read_jsonl
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.training.encode import EncodedRow
from prompt_distillation.training.methods.soft_targets import (
    SoftTarget,
    aligned,
    label_targets,
    token_targets,
)
from prompt_distillation.training.methods.soft_trainer import divergence

VOCABULARY = 11


def plain_divergence(logits, found, temperature=1.0):
    """KL over candidates and one bucket, one token at a time, in float64."""
    student = torch.softmax(logits.double(), dim=-1)
    ids, shares = list(found), torch.tensor(list(found.values()), dtype=torch.float64)
    theirs, ours = shares.sum(), student[ids].sum()
    shares = theirs * torch.softmax(shares.log() / temperature, dim=-1)
    chosen = ours * torch.softmax(student[ids].log() / temperature, dim=-1)
    loss = (shares * (shares.log() - chosen.log())).sum()
    if theirs < 1 - 1e-9:
        loss = loss + (1 - theirs) * ((1 - theirs).log() - (1 - ours).log())
    return loss


DISTRIBUTIONS = [
    {3: 0.7, 1: 0.2, 9: 0.05},
    {0: 1.0},
    {2: 0.5, 4: 0.5},
    {10: 0.3, 8: 0.1, 6: 0.1, 5: 0.1},
]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_loss_and_gradients_are_those_of_a_plain_computation(temperature):
    torch.manual_seed(0)
    logits = torch.randn(4, VOCABULARY, requires_grad=True)
    packed = SoftTarget.of(DISTRIBUTIONS)
    found = divergence(
        logits,
        torch.from_numpy(packed.ids).long(),
        torch.from_numpy(packed.probabilities),
        torch.from_numpy(packed.rest),
        temperature=temperature,
    )
    expected = [
        plain_divergence(row, target, temperature)
        for row, target in zip(logits, DISTRIBUTIONS, strict=True)
    ]
    assert found.tolist() == pytest.approx([value.item() for value in expected], rel=1e-5)
    (ours,) = torch.autograd.grad(found.sum(), logits)
    (theirs,) = torch.autograd.grad(sum(expected), logits)
    torch.testing.assert_close(ours, theirs.float(), atol=1e-6, rtol=1e-4)


def test_a_student_that_is_the_teacher_loses_nothing_and_stays():
    torch.manual_seed(1)
    logits = torch.randn(3, VOCABULARY, requires_grad=True)
    shares, ids = torch.softmax(logits.detach(), dim=-1).topk(4)
    loss = divergence(logits, ids, shares, 1 - shares.sum(-1))
    assert loss.tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-6


def test_a_certain_student_and_a_token_without_a_teacher_stay_finite():
    logits = torch.tensor([[60.0, 0, 0, 0], [0.0, 0, 0, 0]], requires_grad=True)
    packed = SoftTarget.of([{0: 0.9, 1: 0.05}, None])
    loss = divergence(
        logits,
        torch.from_numpy(packed.ids).long(),
        torch.from_numpy(packed.probabilities),
        torch.from_numpy(packed.rest),
        temperature=2.0,
    )
    assert loss[1] == 0
    assert torch.isfinite(loss).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient[1].abs().max() == 0


class Answers:
    """One token a letter, and 0 for the end."""

    def of(self, _, answer):
        return [ord(letter) for letter in answer] + [0]


ROW = EncodedRow([1, ord("a"), ord("b"), 0], [-100, ord("a"), ord("b"), 0])


def vote(answer, written, *tokens):
    """A vote with two candidates for each token written."""
    ids = [token for pair in tokens for token in pair]
    shares = [share for pair in tokens for share in pair.values()]
    return VoteRow(
        b"", answer, [ord(c) for c in written] + [0], ids, np.log(shares).tolist(),
        [sum(pair.values()) for pair in tokens], [],
    )  # fmt: skip


A, B, C = map(ord, "abc")


def test_a_row_has_the_mean_of_the_votes_that_agree_up_to_each_token():
    votes = [
        vote("ab", "ab", {A: 0.8, C: 0.2}, {B: 0.6, C: 0.2}, {0: 0.9, A: 0.1}),
        vote("ac", "ac", {A: 0.6, C: 0.4}, {B: 0.4, C: 0.6}, {0: 1.0, A: 1e-9}),
        vote("c", "c", {A: 0.1, C: 0.9}, {0: 0.5, A: 0.5}),
    ]
    first, second, end = token_targets(ROW, votes, Answers(), top=2)
    assert first == pytest.approx({A: (0.8 + 0.6 + 0.1) / 3, C: (0.2 + 0.4 + 0.9) / 3})
    assert second == pytest.approx({B: 0.5, C: 0.4})  # 0.1 is left for the other tokens
    assert end == pytest.approx({0: 0.9, A: 0.1})


def test_tokens_that_the_teacher_did_not_write_have_no_target():
    # The teacher wrote "xb": of the answer "ab" only the second token and the end.
    first, second, end = token_targets(
        ROW, [vote("ab", "xb", {1: 0.5, 2: 0.5}, {B: 0.9, C: 0.1}, {0: 0.7, A: 0.3})],
        Answers(), top=2,
    )  # fmt: skip
    assert first is None
    assert second == pytest.approx({B: 0.9, C: 0.1})
    assert end == pytest.approx({0: 0.7, A: 0.3})


def test_an_answer_behind_a_frame_is_found_where_it_ends():
    assert aligned([5, 6, 0], [9, 5, 6, 8, 5, 6, 0]) == {0: 4, 1: 5, 2: 6}


def test_labels_are_laid_out_over_the_students_own_tokens():
    votes = [VoteRow(b"", "ab", [], [], [], [], shares) for shares in ([0.6, 0.2, 0.2], [1, 0, 0])]
    found = label_targets(ROW, votes, ["ab", "ac", "c"], Answers())
    assert found[0] == pytest.approx({A: 0.9, C: 0.1})
    assert found[1] == pytest.approx({B: 0.8 / 0.9, C: 0.1 / 0.9})
    assert found[2] == {0: 1.0}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


def write_logprobs(train_file, *, vocabulary=None, labels=LABELS, hard=False):
    """Each row's teacher is three quarters sure; it writes what the student is to write."""
    tokenizer = build_tokenizer()
    path = train_file.with_suffix(".logprobs.parquet")
    with path.open("wb") as file:
        writer = LogprobsWriter(
            file, top=2, labels=labels, vocabulary=vocabulary or vocabulary_sha256(tokenizer)
        )
        for _, row in read_jsonl(train_file):
            *context, answer = row["messages"]
            label = answer["content"]
            sure = 1.0 if hard else 0.75
            ids = [*tokenizer.encode(label), tokenizer.eos_token_id]
            tokens = [
                (token, [(token, math.log(sure)), (token + 1, math.log(1.0001 - sure))])
                for token in ids
            ]
            shares = [sure if other == label else (1 - sure) / 3 for other in labels]
            writer.write(context_key(context), label, AnswerLogprobs.of(tokens, top=2), shares)
        writer.close()
    return path


@pytest.fixture
def train_file(tmp_path):
    write_rows(tmp_path / "rows.heldout.jsonl", 12)
    return write_rows(tmp_path / "rows.jsonl", 48)


def flags(train_file, student, output_dir, *more):
    return [
        f"--train_file={train_file}", f"--model_name={student}",
        f"--output_dir={output_dir}", "--report_to=none", "--gradient_checkpointing=false",
        "--learning_rate=0.005", *more,
    ]  # fmt: skip


def train(train_file, student, output_dir, *more):
    main(flags(train_file, student, output_dir, *more))
    manifest = json.loads((output_dir / "training_manifest.json").read_text())
    return manifest, json.loads((output_dir / "log_history.json").read_text())


def losses(history, key="loss"):
    return [entry[key] for entry in history if key in entry]


@pytest.mark.parametrize("targets", ["auto", "tokens"])
def test_a_run_learns_the_teachers_probabilities(tmp_path, train_file, student, targets):
    write_logprobs(train_file)
    options = ("--method=soft", f"--soft_targets={targets}", "--num_train_epochs=4")
    manifest, history = train(train_file, student, tmp_path / "run", *options)
    assert manifest["method"]["name"] == "soft"
    assert manifest["method"]["targets"] == ("labels" if targets == "auto" else "tokens")
    assert manifest["method"]["rows_with_targets"] == 48
    assert manifest["inputs"]["method_files_sha256"]
    divergences = losses(history, "divergence")
    assert divergences == pytest.approx(losses(history), rel=1e-4)  # the weight is 1
    assert divergences[-1] < 0.6 * divergences[0]
    assert manifest["result"]["held_out_loss"][1] < manifest["result"]["held_out_loss"][0]
    assert (tmp_path / "run" / "plots").is_dir()


def test_a_teacher_that_is_sure_teaches_what_its_answers_teach(tmp_path, train_file, student):
    write_logprobs(train_file, hard=True)
    _, soft = train(train_file, student, tmp_path / "soft", "--method=soft")
    _, hard = train(train_file, student, tmp_path / "sft")
    assert losses(soft) == pytest.approx(losses(hard), rel=1e-4)
    assert losses(soft, "eval_loss") == pytest.approx(losses(hard, "eval_loss"), rel=1e-4)


def test_padded_rows_train_what_rows_laid_end_to_end_train(tmp_path, train_file, student):
    write_logprobs(train_file)
    options = ("--method=soft", "--soft_weight=0.5")
    _, filled = train(train_file, student, tmp_path / "filled", *options)
    _, padded = train(train_file, student, tmp_path / "padded", *options, "--fill_micro_batch=no")
    assert losses(filled) == pytest.approx(losses(padded), abs=2e-5)
    half = [(a + b) / 2 for a, b in zip(
        losses(filled, "cross_entropy"), losses(filled, "divergence"), strict=True
    )]  # fmt: skip
    assert losses(filled) == pytest.approx(half, rel=1e-4)


def test_a_killed_run_goes_on_with_the_same_curve(tmp_path, train_file, student):
    write_logprobs(train_file)
    options = ("--method=soft", "--num_train_epochs=2", "--save_steps=2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, first = train(train_file, student, whole, *options)
    train_until_killed(flags(train_file, student, killed, *options), step=5)
    assert not (killed / "training_manifest.json").exists()
    assert (killed / "checkpoint-4").is_dir()
    _, second = train(train_file, student, killed, *options)
    assert losses(second) == pytest.approx(losses(first), abs=1e-6)
    ours = load_file(killed / "adapter_model.safetensors")
    for name, tensor in load_file(whole / "adapter_model.safetensors").items():
        assert (ours[name] - tensor).abs().max() < 1e-6, name


def test_rows_that_the_file_does_not_know_are_trained_by_their_answers(
    tmp_path, train_file, student, caplog
):
    write_logprobs(train_file)
    with train_file.open("a") as file:
        turns = [{"role": "user", "content": "new"}, {"role": "assistant", "content": "de"}]
        file.write(json.dumps({"messages": turns}) + "\n")
    manifest, _ = train(train_file, student, tmp_path / "run", "--method=soft")
    assert manifest["method"]["rows_with_targets"] == 48
    assert "1 of 49 rows have no probabilities" in caplog.text


def test_what_is_wrong_is_said_before_training(tmp_path, train_file, student):
    def refused(error, message, *more):
        with pytest.raises(error, match=message):
            train(train_file, student, tmp_path / "run", *more)
        assert not (tmp_path / "run" / "training_manifest.json").exists()

    refused(InputError, r"create_data.py --output_file .* --top_logprobs 20", "--method=soft")
    refused(ConfigError, "--method is sft", "--soft_weight=0.5")
    refused(ConfigError, "of the last answer only", "--method=soft", "--assistant_turns=all")
    path = write_logprobs(train_file, vocabulary="another")
    refused(
        InputError, "different vocabularies.*--soft_targets labels", "--method=soft",
        "--soft_targets=tokens",
    )  # fmt: skip
    refused(ConfigError, "--packing does not go with", "--method=soft", "--packing")
    write_logprobs(train_file, vocabulary="another", labels=())
    refused(InputError, "holds no labels", "--method=soft", "--soft_targets=labels")
    refused(InputError, "different vocabularies.*--method sft", "--method=soft")
    other = write_rows(tmp_path / "other.jsonl", 4)
    other.write_text(other.read_text().replace('"content": "', '"content": "x'))
    write_logprobs(other).replace(path)
    refused(InputError, "says nothing of any row", "--method=soft")
    path.write_bytes(b"")
    refused(InputError, "not a parquet file", "--method=soft")
