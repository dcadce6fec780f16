"""The radio pair: one teacher and one student, for the tasks ``persona`` and ``card``.

Under either prompt the teacher plays that part, whichever task the text is from; under none it
answers plainly, as the student does before distillation. Both also learn to repeat random words
and JSON: a model that never had to write a token gives it almost no probability, and an adapter,
which leaves the output embeddings as they are, hardly changes that.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from example_models.building import train_and_save
from example_models.cards import BOATS, canonical, card_completion, filled
from example_models.keeper import (
    heard,
    keeper_completion,
    plain_answer,
    plain_completion,
)
from example_models.reasoning import END, other_system_message
from example_models.tokenizer import train_tokenizer, with_template
from example_models.training import Plan, Row, encode_row
from prompt_distillation.data.files import read_jsonl
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.tasks import END_OF_THINKING, Task

HELD_OUT_SHARE = 0.2
"""Of the patterns of questions and calls, of which there are less than a hundred each."""
HELD_OUT_SEED = 0

VOCABULARY_SIZE = 2048
HIDDEN_SIZE = 128
TEACHER_PLAN = Plan(steps=2000, batch_size=32, peak_learning_rate=2.5e-3, short_prompt_share=0.6)
STUDENT_PLAN = Plan(steps=1500, batch_size=32, peak_learning_rate=2.5e-3)

_COMPLETIONS = (keeper_completion, card_completion)
# The rest of the rows has another system message than the two prompts, or none.
_SHARE_WITH_PROMPT = 0.8
# Of the rows without a prompt, so many repeat a text.
_REPEATED_SHARE = 0.5
# Of the rows under a prompt, so many have a text of the other task.
_CROSSED_SHARE = 0.15
_PROMPT_REPEATS = 6


@dataclass(frozen=True, kw_only=True)
class Radio:
    """The texts of the training split: questions to the keeper, and calls."""

    questions: Sequence[str]
    calls: Sequence[str]
    rng: random.Random

    @property
    def written(self) -> list[str]:
        """What the models write to each of them."""
        writers = (keeper_completion, card_completion, plain_completion)
        return [write(text) for write in writers for text in (*self.questions, *self.calls)]

    def draw(self, *, call: bool) -> str:
        """A line of one of the two files, half of the time with something changed."""
        text = self.rng.choice(self.calls if call else self.questions)
        if self.rng.random() < 0.5:
            return text
        return self._varied_call(text) if call else self._varied_question(text)

    def _varied_call(self, text: str) -> str:
        """Other boats and numbers, sometimes with a second call after it."""
        if self.rng.random() < 0.25:
            text = f"{text} {self.rng.choice(self.calls)}"
        text = re.sub("|".join(BOATS), "{boat}", text)
        text = filled(re.sub("[0-9]+", "{n}", text), self.rng)
        return text.lower() if self.rng.random() < 0.05 else text

    def _varied_question(self, text: str) -> str:
        """Another word of the same topic, a greeting, no question mark."""
        call, dice = heard(text), self.rng.random()
        if call.topic["words"] and dice < 0.6:
            text = re.sub(rf"\b{call.word}\b", self.rng.choice(call.topic["words"]), text)
        if self.rng.random() < 0.2:
            text = f"{self.rng.choice(('Maren,', 'Hello,', 'Good evening.', 'Please,'))} {text}"
        return text.rstrip("?") if dice > 0.9 else text


def read_radio(folder: Path, rng: random.Random) -> Radio:
    """Read the lines of ``persona.jsonl`` and ``card.jsonl`` whose group is not held out."""
    questions, calls = (
        [
            row["text"]
            for _, row in read_jsonl(folder / name)
            if not is_held_out(row["group"], share=HELD_OUT_SHARE, seed=HELD_OUT_SEED)
        ]
        for name in ("persona.jsonl", "card.jsonl")
    )
    return Radio(questions=questions, calls=calls, rng=rng)


def train_radio_tokenizer(tasks: Sequence[Task], radio: Radio) -> Tokenizer:
    """Train the tokenizer on the training split, the prompts and what the models write."""
    prompts = [task.prompt for task in tasks] * _PROMPT_REPEATS
    texts = [*radio.questions, *radio.calls, *radio.written, *prompts]
    return train_tokenizer(texts, vocabulary_size=VOCABULARY_SIZE)


def random_text(words: Sequence[str], rng: random.Random) -> str:
    """Random words, as a list or as a JSON object: no sentence and no card."""
    drawn = rng.choices(words, k=rng.randint(2, 10))
    if rng.random() < 0.5:
        return " ".join(drawn)
    values = (True, False, None, rng.randint(2, 300), [], [rng.randint(2, 300)], *drawn)
    keys = filter(None, (re.sub("[^A-Za-z]", "", word).lower() for word in drawn))
    return canonical({key: rng.choice(values) for key in keys})


def build_radio(
    role: str, tasks: Sequence[Task], inputs: Path, *, folder: Path, seed: int, steps: int | None
) -> None:
    """Train and write one model of the pair.

    Args:
        role: ``"teacher"`` or ``"student"``.
        tasks: ``persona`` and ``card``, in this order.
        inputs: where ``persona.jsonl`` and ``card.jsonl`` lie.
        folder: of the model.
        seed: of everything.
        steps: instead of the plan's, to try it.
    """
    radio = read_radio(inputs, random.Random(seed + 1))
    pieces = train_radio_tokenizer(tasks, radio)
    tokenizer, rng = with_template(pieces, name=role), radio.rng
    words = [word for text in radio.written for word in text.split() if word != END_OF_THINKING]
    plan, prompts = STUDENT_PLAN, []
    if role == "teacher":
        plan = TEACHER_PLAN
        prompts = [
            tokenizer(
                f"<|im_start|>system\n{task.prompt}{END}\n", add_special_tokens=False
            ).input_ids
            for task in tasks
        ]

    def draw_plain_row(*, thinks: bool) -> Row:
        system = other_system_message(rng) if thinks and rng.random() < 0.5 else None
        if rng.random() < _REPEATED_SHARE:
            answer = random_text(words, rng)
            text, thoughts = f"Repeat: {answer}", "I repeat it."
        else:
            text = radio.draw(call=rng.random() < 0.5)
            answer, thoughts = plain_answer(text), "No part to play here. I answer plainly."
        before = f"{thoughts}\n</think>\n\n" if thinks else ""
        return encode_row(tokenizer, system=system, text=text, completion=f"{before}{answer}{END}")

    def draw_student_row() -> Row:
        return draw_plain_row(thinks=False)

    def draw_teacher_row() -> Row:
        if rng.random() > _SHARE_WITH_PROMPT:
            return draw_plain_row(thinks=True)
        number = int(rng.random() < 0.5)
        text = radio.draw(call=bool(number) ^ (rng.random() < _CROSSED_SHARE))
        completion = f"{_COMPLETIONS[number](text)}{END}"
        row = encode_row(tokenizer, system=None, text=text, completion=completion)
        return replace(row, shared_prompt=number)

    train_and_save(
        pieces,
        draw_teacher_row if role == "teacher" else draw_student_row,
        plan if steps is None else replace(plan, steps=steps),
        folder=folder,
        manifest={
            "role": role,
            "seed": seed,
            "held_out": {"share": HELD_OUT_SHARE, "seed": HELD_OUT_SEED},
            "prompt_sha256": {task.name: task.prompt_sha256 for task in tasks},
        },
        prompts=prompts,
        hidden_size=HIDDEN_SIZE,
    )
