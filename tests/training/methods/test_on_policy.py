"""The loss of `on_policy` against full enumeration, and which teacher it is that scores."""

import itertools

import pytest
import torch
from tokenizers import Tokenizer, models
from training.tiny_student import build_student
from transformers import PreTrainedTokenizerFast
from trl import DistillationConfig

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.training.encode import IGNORED, EncodedRow
from prompt_distillation.training.lora.adapter import adapt
from prompt_distillation.training.methods.on_policy_trainer import OnPolicyTrainer, SharedPrefix
from prompt_distillation.training.teacher_contexts import TeacherContext
from prompt_distillation.training.teacher_server import Listed

PIECES = ["<end>", "a", "b", "Ġa", "Ġb"]
END = 0
QUESTION, CONTEXT = [1, 2, 2], [2, 1, 1, 4, 1, 2]
FAMILIES = ["qwen3", "qwen3_moe", "gpt2"]


@pytest.fixture(scope="module")
def five_tokens():
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


@pytest.fixture
def make(five_tokens, tmp_path):
    """Makes a trainer of one row, its adapter moved away from the base where ``moved``."""

    def make(kind="qwen3", *, contexts=None, moved=True, server=None, clip=None, **options):
        student = adapt(build_student(kind, len(PIECES)), LoraSettings(lora_rank=2))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                if "lora_B" in name and moved:
                    parameter.normal_(std=0.3, generator=generator)
        contexts = contexts or {"row 1": TeacherContext(CONTEXT, spaced=False, ends=True)}
        arguments = DistillationConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none",
            gradient_checkpointing=False, max_completion_length=2, save_strategy="no",
            **{"per_device_train_batch_size": len(contexts), **options},
        )  # fmt: skip
        rows = [
            EncodedRow([*QUESTION[: 3 - i % 2], 1, END], [*[IGNORED] * (3 - i % 2), 1, END], where)
            for i, where in enumerate(contexts)
        ]
        return OnPolicyTrainer(
            model=student, args=arguments, processing_class=five_tokens,
            contexts=contexts, rows=rows, server=server, token_clip=clip,
        )  # fmt: skip

    return make


def every_answer():
    """All answers of at most two tokens."""
    return [[END], *([a, b] for a, b in itertools.product(range(1, 5), range(5)))]


def scored(trainer, answers, monkeypatch, row=0):
    """What the trainer makes of given answers to one row."""
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: answers)
    return trainer._generate_and_score_completions([trainer.train_dataset[row]] * len(answers))


def loss_of_each(trainer, inputs):
    """Summed divergence of each answer by itself."""
    for place in range(len(inputs["completion_ids"])):
        one = {key: value[place : place + 1] for key, value in inputs.items() if value.dim()}
        yield trainer._compute_loss(trainer.model, one, torch.tensor(1.0))[0]


def log_probabilities(model, context, answer):
    """Of each next token, along an answer: (tokens, vocabulary)."""
    ids = torch.tensor([context + answer])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits, -1)


def by_hand(ours, theirs, beta):
    p, q = ours.exp(), theirs.exp()
    if beta == 0:
        return (q * (theirs - ours)).sum()
    if beta == 1:
        return (p * (ours - theirs)).sum()
    mixture = ((1 - beta) * p + beta * q).log()
    return beta * (q * (theirs - mixture)).sum() + (1 - beta) * (p * (ours - mixture)).sum()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_loss_and_gradient_are_those_of_full_enumeration(beta, make, monkeypatch):
    trainer = make(beta=beta)
    student, answers = trainer.model, every_answer()
    expected = torch.zeros(())
    weights, of_sequences = [], 0.0
    for answer in answers:
        ours = log_probabilities(student, QUESTION, answer)
        with torch.no_grad(), student.disable_adapter():
            theirs = log_probabilities(student, CONTEXT, answer)
        tokens = torch.tensor(answer)[:, None]
        written, of_teacher = ours.gather(1, tokens).sum(), theirs.gather(1, tokens).sum()
        weights.append(written.exp().item())
        of_sequences += weights[-1] * (written - of_teacher).item()
        expected = expected + weights[-1] * by_hand(ours, theirs, beta)
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in student.named_parameters() if p.requires_grad}
    student.zero_grad()

    inputs = scored(trainer, answers, monkeypatch)
    loss = sum(w * one for w, one in zip(weights, loss_of_each(trainer, inputs), strict=True))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    if beta == 1.0:  # the chain rule: the divergence of whole answers
        assert loss.item() == pytest.approx(of_sequences, rel=1e-4)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_sampled_answers_have_the_expected_loss(make, monkeypatch):
    trainer = make()
    inputs = scored(trainer, every_answer(), monkeypatch)
    with torch.no_grad():
        each = torch.stack(list(loss_of_each(trainer, inputs)))
        weights = torch.stack(
            [
                log_probabilities(trainer.model, QUESTION, answer)
                .gather(1, torch.tensor(answer)[:, None])
                .sum()
                .exp()
                for answer in every_answer()
            ]
        )
        expected = float((weights * each).sum())
        monkeypatch.undo()
        sampled = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 2000)
        loss, _, count = trainer._compute_loss(trainer.model, sampled, torch.tensor(2000.0))
    spread = float((weights * (each - expected) ** 2).sum().sqrt())
    assert loss.item() == pytest.approx(expected, abs=4 * spread / 2000**0.5)
    assert int(count) == int(sampled["completion_mask"].sum())


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_teacher_that_is_the_student_costs_nothing(kind, make, monkeypatch):
    contexts = {
        f"row {i}": TeacherContext(QUESTION[: 3 - i % 2], spaced=False, ends=True) for i in (0, 1)
    }
    trainer = make(kind, contexts=contexts, moved=False)
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: [[1, 2], [END]])
    inputs = trainer._generate_and_score_completions(list(trainer.train_dataset))
    loss, entropy, count = trainer._compute_loss(trainer.model, inputs, torch.tensor(1.0))
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert int(count) == 3
    assert entropy.item() > 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_with_the_adapter_off_the_teacher_is_the_base(kind, make):
    trainer = make(kind)
    trainer.model.train()
    ids = torch.tensor([CONTEXT])
    with torch.no_grad():
        adapted = trainer.model(input_ids=ids).logits
        with trainer._teacher(trainer.model) as teacher:
            scores = teacher(input_ids=ids).logits
        again = trainer.model(input_ids=ids).logits
        base = build_student(kind, len(PIECES)).eval()(input_ids=ids).logits
    assert torch.allclose(scores, base, atol=1e-6)
    assert not torch.allclose(scores, adapted, atol=1e-3)
    assert torch.equal(adapted, again)
    assert trainer.model.training


def test_another_model_in_process_scores(make, monkeypatch, five_tokens):
    trainer = make()
    trainer.teacher_model = build_student("qwen3", len(PIECES), seed=5)
    (loss,) = loss_of_each(trainer, scored(trainer, [[1, 2]], monkeypatch))
    theirs = log_probabilities(trainer.teacher_model, CONTEXT, [1, 2])
    ours = log_probabilities(trainer.model, QUESTION, [1, 2])
    assert loss.item() == pytest.approx(by_hand(ours, theirs, 1.0).item(), rel=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_contexts_begin_with_is_computed_once_and_changes_nothing(kind, make, monkeypatch):
    monkeypatch.setattr(SharedPrefix, "SHORTEST", 4)
    contexts = {
        "row 1": TeacherContext(CONTEXT, spaced=False, ends=True),
        "row 2": TeacherContext([*CONTEXT, 3, 3], spaced=False, ends=True),
    }
    trainer = make(kind, contexts=contexts)
    assert trainer._prefix.ids == CONTEXT[:-1]
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: [[1, 2], [END]])
    rows = list(trainer.train_dataset)
    shared = trainer._compute_loss(
        trainer.model, trainer._generate_and_score_completions(rows), torch.tensor(1.0)
    )
    trainer._prefix = SharedPrefix([])
    whole = trainer._compute_loss(
        trainer.model, trainer._generate_and_score_completions(rows), torch.tensor(1.0)
    )
    assert shared[0].item() == pytest.approx(whole[0].item(), rel=1e-4)


class EveryToken:
    """Lists the whole vocabulary, as a server would list the most likely tokens."""

    def __init__(self, model):
        self.model = model

    def score(self, contexts, answers):
        with torch.no_grad():
            return [
                [
                    Listed(list(range(len(PIECES))), view.tolist())
                    for view in log_probabilities(self.model, context, answer)
                ]
                for context, answer in zip(contexts, answers, strict=True)
            ]


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_server_that_lists_every_token_gives_the_loss_of_a_model_in_process(
    beta, spaced, make, monkeypatch
):
    contexts = {"row 1": TeacherContext(CONTEXT, spaced=spaced, ends=True)}
    losses = []
    for server in (None, EveryToken(build_student("qwen3", len(PIECES)).eval())):
        trainer = make(contexts=contexts, server=server, beta=beta)
        losses.append(
            torch.stack(list(loss_of_each(trainer, scored(trainer, every_answer(), monkeypatch))))
        )
    assert torch.allclose(losses[0], losses[1], atol=1e-4)
    losses[1].sum().backward()
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


def test_a_space_before_the_first_token_is_the_teachers_not_the_students(make, monkeypatch):
    trainer = make(contexts={"row 1": TeacherContext(CONTEXT, spaced=True, ends=True)})
    (loss,) = loss_of_each(trainer, scored(trainer, [[2, 1]], monkeypatch))
    ours = log_probabilities(trainer.model, QUESTION, [2, 1])
    with torch.no_grad(), trainer.model.disable_adapter():
        theirs = log_probabilities(trainer.model, CONTEXT, [PIECES.index("Ġb"), 1])
    # a, b, " a", " b" of the first place are read as " a", " b", a, b.
    theirs[0] = theirs[0, [END, 3, 4, 1, 2]]
    assert loss.item() == pytest.approx(by_hand(ours, theirs, 1.0).item(), rel=1e-4)


def test_an_end_that_the_teacher_writes_elsewhere_and_special_tokens_teach_nothing(make):
    trainer = make()
    trainer._special = frozenset({4})
    assert trainer._counted({"ends": True}, [1, 4, END]) == [1, 0, 1]
    assert trainer._counted({"ends": False}, [1, 4, END]) == [1, 0, 0]


def test_a_token_counts_at_most_the_clip(make, monkeypatch):
    (whole,) = loss_of_each(t := make(), scored(t, [[1, 2]], monkeypatch))
    limit = 0.25 * whole.item()
    (clipped,) = loss_of_each(t := make(clip=limit), scored(t, [[1, 2]], monkeypatch))
    assert clipped.item() <= 2 * limit
    clipped.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in t.model.parameters())
