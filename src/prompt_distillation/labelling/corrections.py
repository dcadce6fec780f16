"""What a person corrected, and where it applies.

``NAME.corrections.jsonl`` holds one object a line: ``text``, ``answer``, and ``history`` where the
input has one. It applies to every input with the same text (and its normalised duplicates), under
any prompt or model: a person's word outlives the teacher's. The last line on a text counts.
"""

import hashlib
from pathlib import Path

from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.splits import Duplicates
from prompt_distillation.errors import InputError
from prompt_distillation.labelling.keys import ContentKeys
from prompt_distillation.tasks import ChatMessage, Task


class Corrections:
    """Answers that replace the teacher's.

    Args:
        answers: key -> answer.
        keys: of the inputs, under no settings.
        sha256: of the file they came from; None where there is none.
    """

    def __init__(self, answers: dict[bytes, str], keys: ContentKeys, sha256: str | None) -> None:
        self._answers = answers
        self._keys = keys
        self.sha256 = sha256

    def __len__(self) -> int:
        return len(self._answers)

    def answer_for(self, item: Input) -> str | None:
        """The person's answer for ``item``, if there is one."""
        return self._answers.get(self._keys.of(item)) if self._answers else None


def read_corrections(path: Path, task: Task, *, duplicates: Duplicates) -> Corrections:
    """Read the corrections beside a dataset; a missing file holds none.

    Raises:
        InputError: a line without a text or an answer.
        TaskError: an answer that is none of the task's labels.
    """
    keys = ContentKeys("corrections", duplicates=duplicates)
    if not path.exists():
        return Corrections({}, keys, None)
    answers: dict[bytes, str] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        text, answer = row.get("text"), row.get("answer")
        if not isinstance(text, str) or not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{where}: a correction needs a text and an answer, both texts")
        history: tuple[ChatMessage, ...] = tuple(row.get("history") or ())
        item = Input(index=0, text=text, group="", history=history)
        answers[keys.of(item)] = task.require_answer(answer, where=where)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Corrections(answers, keys, digest)
