import torch
from training.tiny_student import build_student

from prompt_distillation.training import held_out_answers
from prompt_distillation.training.encode import EncodedRow
from prompt_distillation.training.held_out_answers import (
    Question,
    answer_greedily,
    count_right,
    questions,
)


def test_a_row_is_taken_apart_into_context_and_answer():
    rows = [EncodedRow([5, 6, 7, 8], [-100, -100, 7, 8])] * 3
    assert questions(rows, limit=2) == [Question([5, 6], [7, 8])] * 2


def test_of_a_conversation_the_last_answer_is_asked_for():
    rows = [EncodedRow([5, 6, 7, 8], [-100, 6, -100, 8])]
    assert questions(rows, limit=1) == [Question([5, 6, 7], [8])]


def test_the_rows_asked_are_spread_over_the_file():
    rows = [EncodedRow([i, 7], [-100, 7]) for i in range(10)]
    assert [question.context[0] for question in questions(rows, limit=4)] == [0, 2, 5, 7]
    assert len(questions(rows, limit=99)) == 10
    assert questions(rows, limit=0) == []


def test_an_answer_is_right_if_it_is_the_label_and_then_ends():
    asked = [Question([1], [7, 2]), Question([1], [8, 9, 2]), Question([1], [7, 2])]
    assert count_right(asked, [[7, 2, 0], [8, 9, 2], [7, 5, 2]]) == 2


def test_answers_do_not_depend_on_the_other_rows_of_a_batch():
    model = build_student("qwen3_moe", 400).eval()
    asked = [Question(list(range(10, 10 + n)), [1, 2, 3]) for n in (3, 20, 9)]
    together = answer_greedily(model, asked, pad_id=0)
    for question, answer in zip(asked, together, strict=True):
        ids = torch.tensor([question.context])
        alone = []
        for _ in range(3):
            alone.append(int(model(input_ids=ids).logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[alone[-1]]])], dim=1)
        assert answer == alone


def test_a_batch_holds_as_many_rows_as_its_tokens_allow(monkeypatch):
    monkeypatch.setattr(held_out_answers, "TOKENS_PER_BATCH", 30)
    model = build_student("qwen3_moe", 400).eval()
    shapes = []
    plain = model.generate

    def spied(*, input_ids, **options):
        shapes.append(tuple(input_ids.shape))
        return plain(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", spied)
    asked = [Question(list(range(10, 10 + n)), [1, 2, 3]) for n in (3, 3, 20, 40, 4, 4)]
    answers = answer_greedily(model, asked, pad_id=0)
    # With three tokens of an answer each; a row over the limit goes alone.
    assert shapes == [(2, 3), (1, 20), (1, 40), (2, 4)]
    assert len(answers) == len(asked)
