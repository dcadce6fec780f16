"""What is distilled: a prompt, its labels if there are any, and how an answer is read."""

from prompt_distillation.tasks.task import (
    END_OF_THINKING,
    START_OF_THINKING,
    Answer,
    ChatMessage,
    RejectReason,
    Task,
    TaskKind,
    load_task,
)

__all__ = [
    "END_OF_THINKING",
    "START_OF_THINKING",
    "Answer",
    "ChatMessage",
    "RejectReason",
    "Task",
    "TaskKind",
    "load_task",
]
