"""Where a completion's answer is: after the last ``</think>``, and nowhere else."""

from prompt_distillation.tasks.answer_kind import Answer, RejectReason
from prompt_distillation.tasks.patterns import without_half_characters

START_OF_THINKING = "<think>"
END_OF_THINKING = "</think>"


def extract_answer(
    text: str, *, finish_reason: str, thinking: bool, reasoning: str | None = None
) -> Answer:
    """Cut the answer out of one completion. Reasoning is never searched for an answer.

    >>> extract_answer("French. </think> fr", finish_reason="stop", thinking=True).text
    'fr'

    Args:
        text: the completion, special tokens that mark a turn's end already gone.
        finish_reason: why the engine stopped; ``"length"`` means the answer was cut off.
        thinking: whether the model reasons first, so that a text without ``</think>`` is all
            reasoning. A text that opens with ``<think>`` is that in any case; where a server
            delivers ``reasoning`` apart, a text without ``</think>`` is the answer.
        reasoning: the reasoning, where the engine delivers it in a field of its own.

    Returns:
        The answer as it stands, stripped, or why there is none.
    """
    text = without_half_characters(text)
    before, mark, answer = text.rpartition(END_OF_THINKING)
    before = (before if mark else text).strip().removeprefix(START_OF_THINKING).strip()
    if mark:
        reasoning = before if reasoning is None else f"{reasoning}\n{before}".strip()
    elif reasoning is None and (thinking or text.lstrip().startswith(START_OF_THINKING)):
        cut = finish_reason == "length"
        reason = RejectReason.LENGTH if cut else RejectReason.NO_END_OF_THINKING
        return Answer(reasoning=before, reject_reason=reason)
    if finish_reason == "length":
        return Answer(reasoning=reasoning, reject_reason=RejectReason.LENGTH)
    answer = answer.strip()
    if not answer:
        return Answer(reasoning=reasoning, reject_reason=RejectReason.EMPTY)
    return Answer(text=answer, reasoning=reasoning)
