"""Divergences over the whole vocabulary, and over listed tokens with a rest."""

import pytest
import torch

from prompt_distillation.training.divergence import (
    NOTHING,
    divergence,
    student_with_rest,
    with_rest,
)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_listed_tokens_never_say_more_than_the_whole_vocabulary(beta):
    generator = torch.Generator().manual_seed(0)
    logits, of_teacher = 3 * torch.randn(2, 6, 50, generator=generator)
    theirs = torch.log_softmax(of_teacher, -1)
    whole = divergence(torch.log_softmax(logits, -1), theirs, beta)
    before = torch.zeros(6)
    for count in (5, 20, 50):
        listed, ids = theirs.topk(count)
        found = divergence(student_with_rest(logits, ids), with_rest(listed), beta)
        assert (found <= whole + 1e-4).all()
        assert (found >= before - 1e-4).all()
        before = found
    assert torch.allclose(before, whole, atol=1e-4)


def test_filling_up_a_list_changes_nothing():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = torch.log_softmax(torch.arange(18.0).view(2, 9) / 9, -1)
    listed, ids = theirs.topk(3)
    filled = torch.cat([listed, torch.full((2, 2), NOTHING)], -1)
    filled_ids = torch.cat([ids, torch.full((2, 2), -1)], -1)
    plain = divergence(student_with_rest(logits, ids), with_rest(listed), 1.0)
    longer = divergence(student_with_rest(logits, filled_ids), with_rest(filled), 1.0)
    assert torch.allclose(plain, longer)
    longer.sum().backward()
    assert torch.isfinite(logits.grad).all()
