r"""What the teacher reads before it scores the student's answer.

The student answers the bare input. The teacher scores the same tokens, but after all that it had
before it when it labelled the input: its prompt, its own reasoning, and what it wrote between the
reasoning and the answer (its lead-in)::

    student:  <user> INPUT <assistant>                                              de <end>
    teacher:  <system> PROMPT <user> INPUT <assistant> REASONING </think> \n\nFinal Answer: de <end>

Without the lead-in the teacher would find ``de`` unlikely: under its prompt it begins a line with
``Final Answer:``. The lead-in is read off the teacher's stored output of that input; a task whose
answers are whole texts has none.

Two details make the tokens comparable:

- Byte-level tokenizers write a word after a space as one token, space included. The teacher's
  answer begins with the token `` de``, the student's with ``de``. A space that ends the lead-in is
  therefore taken for the beginning of the answer's first token (`TeacherContext.spaced`): each
  token and its twin with a space change places in the teacher's view of that position.
- Where the teacher went on after the answer (``**``, a full stop, the end of a code fence), its
  opinion that the turn should not end yet is about its own format. The end of the student's turn
  then teaches nothing (`TeacherContext.ends`).
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.data.dataset_files import Record, read_records
from prompt_distillation.data.files import read_json
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.tasks import (
    END_OF_THINKING,
    START_OF_THINKING,
    ChatMessage,
    Task,
    load_task,
)
from prompt_distillation.training.encode import EncodedRow

logger = logging.getLogger(__name__)

SPACES = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write a space at the beginning of a token."""


@dataclass(frozen=True, slots=True)
class TeacherContext:
    """What the teacher reads before one answer.

    Attributes:
        ids: prompt, input, reasoning and lead-in.
        spaced: the teacher writes the answer's first token with a space before it, the student
            without.
        ends: the teacher ends its turn right after the answer.
    """

    ids: list[int]
    spaced: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What the teacher has written for one input, taken apart.

    Attributes:
        before: reasoning, its end, and the lead-in.
        answer: in its canonical form.
        goes_on: whether anything follows the answer.
    """

    before: str
    answer: str
    goes_on: bool


def prompting_task(manifest_file: Path, named: str | None) -> Task:
    """The task whose prompt the labels were made with.

    Args:
        manifest_file: of the dataset.
        named: its folder; None takes the one that the manifest records.

    Raises:
        ConfigError: it is not known, or its prompt is another one than labelled the dataset.
        TaskError: it cannot be loaded.
    """
    made = read_json(manifest_file).get("task", {}) if manifest_file.is_file() else {}
    path = named or made.get("path")
    if not path:
        raise ConfigError(
            f"{manifest_file} does not say which task's prompt the teacher had; pass --task"
        )
    task = load_task(Path(path))
    if made.get("prompt_sha256", task.prompt_sha256) != task.prompt_sha256:
        raise ConfigError(
            f"the prompt of {task.path} is not the one that the dataset was labelled with "
            f"({manifest_file}); label again with create_data.py, or pass the task with --task"
        )
    return task


def read_contexts(
    records_file: Path,
    rows: Sequence[EncodedRow],
    task: Task,
    encoder: PromptEncoder,
    *,
    with_reasoning: bool,
) -> dict[str, TeacherContext]:
    """What the teacher reads for each row that it has answered itself.

    Args:
        records_file: ``NAME.records.jsonl`` of the dataset.
        rows: encoded for the student.
        task: whose prompt the teacher has.
        encoder: of the teacher's chat template.
        with_reasoning: whether it reads its stored reasoning.

    Returns:
        Place of a row -> context, in the rows' order. Rows without the teacher's own answer (those
        that a person has corrected) are left out, counted and logged.

    Raises:
        InputError: no row has a record.
    """
    from prompt_distillation.training.held_out_answers import questions

    records = {_asked(record): record for record in read_records(records_file)}
    contexts: dict[str, TeacherContext] = {}
    left_out: Counter[str] = Counter()
    for row, question in zip(rows, questions(rows, limit=len(rows)), strict=True):
        record = records.get(_key(row.context))
        if record is None:
            left_out["not in the records"] += 1
            continue
        written = what_was_written(record, task, with_reasoning=with_reasoning)
        if written is None:
            left_out["corrected by a person"] += 1
            continue
        system: ChatMessage = {"role": "system", "content": task.prompt}
        contexts[row.where] = encode_context(
            encoder, (system, *row.context), written, question.answer
        )
    if not contexts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(
            f"none of the {len(rows)} rows has an answer of the teacher in {records_file} "
            f"({reasons}); --method on_policy trains on the inputs of a dataset that "
            "create_data.py wrote"
        )
    for reason, count in left_out.items():
        logger.warning("%d of %d rows are left out: %s", count, len(rows), reason)
    return contexts


def _asked(record: Record) -> tuple[tuple[str, str], ...]:
    return _key((*record["history"], {"role": "user", "content": record["text"]}))


def _key(conversation: Sequence[ChatMessage]) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in conversation)


def what_was_written(record: Record, task: Task, *, with_reasoning: bool) -> Written | None:
    """Take apart the output that decided a record; None where its answer is not the teacher's."""
    answer = record["teacher_answer"]
    if answer is None or answer != record["answer"]:
        return None
    reasoning = record["reasoning"] or ""
    texts = [out.get("text", "") for out in record["outputs"] if out["answer"] == answer]
    if not texts:
        return None
    # Among several votes, the one whose reasoning the record holds.
    text = next((text for text in texts if reasoning and reasoning in text), texts[0])
    thought, mark, after = text.rpartition(END_OF_THINKING)
    start, end = _place_of_answer(after, answer, task)
    lead_in = after[:start]
    if not with_reasoning or not (mark or reasoning):
        before = lead_in.lstrip()
    elif mark:
        before = thought + mark + lead_in
    else:  # a server has delivered it in a field of its own
        before = f"{reasoning}\n{END_OF_THINKING}\n\n{lead_in}"
    return Written(before=before, answer=answer, goes_on=end < len(after))


def _place_of_answer(text: str, answer: str, task: Task) -> tuple[int, int]:
    """Where the answer stands: its last occurrence that is read as the answer.

    Where the answer's canonical form does not occur (JSON with other spaces), it begins where its
    first character does, and nothing is known of its end.
    """
    start = text.rfind(answer)
    while start >= 0:
        end = start + len(answer)
        if task.answers.read(text[:end].strip()).text == answer:
            return start, end
        start = text.rfind(answer, 0, end - 1)
    return max(text.find(answer[0]), 0), -1


def encode_context(
    encoder: PromptEncoder,
    messages: Sequence[ChatMessage],
    written: Written,
    answer: Sequence[int],
) -> TeacherContext:
    """Encode what the teacher reads before the answer, so that the student's tokens can follow.

    Args:
        encoder: of the teacher's chat template.
        messages: the conversation with the prompt.
        written: by the teacher.
        answer: token ids of it, as the student is trained on them; the last one ends the turn.
    """
    before = _as_the_template_opens(encoder, messages, written.before)
    answer = list(answer[:-1])
    whole = encoder.encode_conversation(messages, prefill=before + written.answer)
    first = len(whole) - len(answer)
    ends = not written.goes_on
    if answer and whole[first + 1 :] == answer[1:]:
        if whole[first] == answer[0]:
            return TeacherContext(whole[:first], spaced=False, ends=ends)
        pieces = encoder.tokenizer.convert_ids_to_tokens([whole[first], answer[0]])
        if any(pieces[0] == space + pieces[1] for space in SPACES):
            return TeacherContext(whole[:first], spaced=True, ends=ends)
    ids = encoder.encode_conversation(messages, prefill=before)
    return TeacherContext(ids, spaced=False, ends=ends)


def _as_the_template_opens(
    encoder: PromptEncoder, messages: Sequence[ChatMessage], before: str
) -> str:
    """The teacher's text as this template goes on: reasoning is opened once, and closed."""
    opened = encoder.render(messages).rstrip().endswith(START_OF_THINKING)
    thinks = END_OF_THINKING in before
    if opened:
        text = before.lstrip().removeprefix(START_OF_THINKING).lstrip("\n")
        return text if thinks else f"\n{END_OF_THINKING}\n\n{text}"
    if thinks and not before.lstrip().startswith(START_OF_THINKING):
        return f"{START_OF_THINKING}\n{before}"
    return before


def twins_with_space(tokenizer: Any, vocabulary: int) -> list[int]:
    """Id of each token -> id of its twin with a space before it, and the other way round.

    >>> twins = twins_with_space(tokenizer, len(tokenizer))  # doctest: +SKIP
    >>> tokenizer.decode([twins[tokenizer.convert_tokens_to_ids("de")]])  # doctest: +SKIP
    ' de'

    Args:
        tokenizer: of student and teacher.
        vocabulary: number of scores that the model gives; at least that of the tokens.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    twins = list(range(vocabulary))
    for piece, token in ids.items():
        if piece.startswith(SPACES):
            continue
        for space in SPACES:
            twin = ids.get(space + piece)
            if twin is not None and twins[twin] == twin and twins[token] == token:
                twins[token], twins[twin] = twin, token
    return twins


def check_vocabularies(student: Any, teacher: Any, *, name: str) -> None:
    """See that a teacher's tokens are the student's.

    Args:
        student: its tokenizer.
        teacher: its tokenizer.
        name: of the teacher.

    Raises:
        ConfigError: a token of one is another token, or none, of the other.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    apart = [piece for piece, token in ours.items() if theirs.get(piece) != token]
    if apart:
        raise ConfigError(
            f"--teacher_model {name}: its vocabulary is not the student's ({len(apart):,} of "
            f"{len(ours):,} tokens differ, e.g. {apart[0]!r}), so it cannot score the student's "
            "tokens; take a teacher of the same family, or --method sft"
        )


def check_lengths(
    contexts: Mapping[str, TeacherContext], *, answer_tokens: int, limit: int | None
) -> None:
    """See that the teacher can read all of it: nothing is ever cut.

    Args:
        contexts: place of a row -> what the teacher reads.
        answer_tokens: longest answer of the student.
        limit: longest sequence of the teacher; None where it is not known.

    Raises:
        InputError: a row does not fit.
    """
    if limit is None:
        return
    too_long = [place for place, read in contexts.items() if len(read.ids) + answer_tokens > limit]
    if too_long:
        longest = max(too_long, key=lambda place: len(contexts[place].ids))
        raise InputError(
            f"{longest}: the teacher would read {len(contexts[longest].ids):,} tokens (prompt, "
            f"input and its reasoning) and up to {answer_tokens:,} of the answer, and its limit is "
            f"{limit:,}; {len(too_long)} of {len(contexts)} rows do not fit. Nothing is cut: raise "
            "the limit (--teacher_max_length, or --max-model-len of the server), lower "
            "--max_completion_length, or pass --teacher_reasoning false"
        )
