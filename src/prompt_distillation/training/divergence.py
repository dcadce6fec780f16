"""How far the student's next token is from the teacher's, in nats: reverse, forward or mixed.

``beta`` is TRL's: 0 is the forward divergence KL(teacher || student), 1 the reverse one
KL(student || teacher), and between them the generalised Jensen-Shannon divergence with the mixture
``(1 - beta) student + beta teacher`` (Agarwal et al. 2023, arXiv:2306.13649).

This is the loss of ``--method on_policy``; that of ``soft`` is in `methods.soft_trainer`.
"""

import math

import torch

SMALLEST_REST = 1e-9
"""The least that is assumed to be left for the tokens that a server does not list: the listed
probabilities are rounded, and may add up to more than 1."""

NOTHING = -1e4
"""Log-probability that fills up shorter lists: of no weight, and finite."""


def divergence(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Divergence at each position.

    >>> same = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> divergence(same, same, 1.0)
    tensor([0.])

    Args:
        student: log-probabilities of shape (positions, outcomes), each row summing to 1.
        teacher: of the same shape.
        beta: from 0, forward, to 1, reverse.

    Returns:
        Shape (positions,).
    """
    if beta == 0.0:
        return (teacher.exp() * (teacher - student)).sum(-1)
    if beta == 1.0:
        return (student.exp() * (student - teacher)).sum(-1)
    mixture = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
    of_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    of_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * of_teacher + (1 - beta) * of_student


def with_rest(listed: torch.Tensor) -> torch.Tensor:
    """Listed log-probabilities and, as a last outcome, that of all other tokens together.

    Args:
        listed: shape (positions, listed tokens); `NOTHING` fills up shorter lists.

    Returns:
        Shape (positions, listed tokens + 1).
    """
    rest = torch.log((1.0 - listed.exp().sum(-1, keepdim=True)).clamp(min=SMALLEST_REST))
    return torch.cat([listed, rest], dim=-1)


def student_with_rest(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The student's log-probabilities of listed tokens, and of all others together.

    Args:
        logits: shape (positions, vocabulary), in float32.
        tokens: ids of shape (positions, listed tokens); -1 fills up shorter lists.

    Returns:
        Shape (positions, listed tokens + 1); `NOTHING` where a list is filled up.
    """
    total = torch.logsumexp(logits, dim=-1, keepdim=True)
    filled = tokens < 0
    listed = logits.gather(-1, tokens.clamp(min=0)) - total
    # The rest from its own scores, not as 1 minus the listed: exact where it is small.
    width = logits.shape[-1]
    is_listed = torch.zeros(
        logits.shape[0], width + 1, dtype=torch.bool, device=logits.device
    ).scatter_(-1, tokens.where(~filled, width), True)[:, :width]
    rest = torch.logsumexp(logits.masked_fill(is_listed, -math.inf), dim=-1, keepdim=True) - total
    floor = math.log(SMALLEST_REST)
    return torch.cat([listed.masked_fill(filled, NOTHING), rest.clamp(min=floor)], dim=-1)
