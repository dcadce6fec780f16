"""What is distilled: a prompt, its labels if there are any, and how an answer is read."""

from prompt_distillation.tasks.answer_extraction import (
    END_OF_THINKING,
    START_OF_THINKING,
    extract_answer,
)
from prompt_distillation.tasks.answer_kind import (
    Answer,
    AnswerKind,
    MetricFamily,
    RejectReason,
    VoteCount,
)
from prompt_distillation.tasks.task import (
    ChatMessage,
    Task,
    load_task,
    task_files,
)

__all__ = [
    "END_OF_THINKING",
    "START_OF_THINKING",
    "Answer",
    "AnswerKind",
    "ChatMessage",
    "MetricFamily",
    "RejectReason",
    "Task",
    "VoteCount",
    "extract_answer",
    "load_task",
    "task_files",
]
