"""Which inputs a round of `improve` takes: new ones, on which the student is unsure."""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.config.generate_config import GenerateConfig, GrowConfig
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import read_records
from prompt_distillation.data.files import read_json, sibling, write_jsonl
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.near_duplicates import NearDuplicates
from prompt_distillation.data.results import Prediction
from prompt_distillation.data.splits import group_of_text, input_key
from prompt_distillation.engines.event_loop import run
from prompt_distillation.engines.scoring import make_label_scorer
from prompt_distillation.evaluation.evaluator import open_model
from prompt_distillation.evaluation.predictions import asking_of, predict, predict_by_score
from prompt_distillation.evaluation.selection import TestItem
from prompt_distillation.evaluation.text_scores import sentence_chrf
from prompt_distillation.labelling.input_generation import generate_inputs
from prompt_distillation.labelling.labeller import OpenTeacher
from prompt_distillation.tasks import Task

Ask = Callable[[Sequence[Input]], Sequence[Prediction]]
"""What the student says to each input: `ask_student` of one student and task."""

HARDEST = 30
"""Labelled inputs, the hardest for the student, that the teacher writes new ones from."""
MOST_ASKED = 2000
"""Labelled inputs among which the hardest are looked for, drawn at random where there are more."""

WRITTEN_FILE = "written.jsonl"


@dataclass(kw_only=True)
class Known:
    """Inputs that must not be chosen: labelled before, held out, or nearly the same as one of them.

    Attributes:
        keys: `input_key` of each.
        held_out_groups: none of their inputs is chosen.
    """

    keys: set[bytes] = field(default_factory=set)
    held_out_groups: set[str] = field(default_factory=set)
    near: NearDuplicates = field(default_factory=NearDuplicates)

    @classmethod
    def of_records(cls, records: Path) -> "Known":
        """What a dataset's records hold, answered or not."""
        known = cls()
        for record in read_records(records):
            known.keys.add(input_key(record["text"], record["history"]))
            known.near.add(_whole_text(record["text"], record["history"]))
            if record["held_out"]:
                known.held_out_groups.add(record["group"])
        return known

    def has(self, item: Input) -> bool:
        """Whether an input was labelled before, or its group is held out."""
        return item.group in self.held_out_groups or input_key(item.text, item.history) in self.keys

    def take(self, items: Iterable[Input], count: int) -> list[Input]:
        """The first ``count`` that may be chosen; they are known from now on."""
        return list(itertools.islice(filter(self._add, items), count))

    def _add(self, item: Input) -> bool:
        """Add an input that may be chosen; False for another."""
        if self.has(item) or self.near.add_if_new(_whole_text(item.text, item.history)):
            return False
        self.keys.add(input_key(item.text, item.history))
        return True


def _whole_text(text: str, history: Iterable[Mapping[str, Any]]) -> str:
    """A conversation as one text: its last turn may be as short as "yes"."""
    return "\n".join([*(str(turn["content"]) for turn in history), text])


def ask_student(config: EvaluateConfig, task: Task, inputs: Sequence[Input]) -> list[Prediction]:
    """A prediction for each input, in order, with what `uncertainty` needs.

    That is the probability of each label, or of a greedy answer's tokens. The truth of a prediction
    is what the input has as gold.
    """
    config = replace(config, decoding="scored" if task.labels else "free")
    asking = asking_of(config, task)
    items = [TestItem(input=one, truth=one.gold, teacher=None, trained_on=None) for one in inputs]

    async def answers() -> list[Prediction]:
        async with open_model(config) as model:
            if task.labels:
                scorer = await make_label_scorer(model.engine, model.options, list(task.labels))
                made = predict_by_score(scorer, items, task=task, asking=asking)
            else:
                scored = replace(asking, sampling=replace(asking.sampling, top_logprobs=1))
                made = predict(model.engine, items, task=task, asking=scored)
            return [one async for one in made]

    return run(answers())


def uncertainty(prediction: Prediction) -> float:
    """How unsure the student is of an input: the higher, the less sure.

    With labels, margin sampling (Scheffer et al., 2001, "Active Hidden Markov Models for
    Information Extraction"): the probability of the second label minus that of the likeliest.
    Otherwise the maximum normalised log-probability, MNLP (Shen et al., 2018, "Deep Active Learning
    for Named Entity Recognition", https://arxiv.org/abs/1707.05928): the mean log-probability of
    the tokens of the student's own greedy answer, its sign changed. -inf where the student could
    not be asked.
    """
    if prediction.label_probabilities is not None:
        first, second = heapq.nlargest(2, prediction.label_probabilities.values())
        return second - first
    return -math.inf if prediction.mean_logprob is None else -prediction.mean_logprob


def ease(prediction: Prediction) -> float:
    """How easy an input with a known answer is for the student.

    With labels, the probability of that answer minus that of the likeliest other: below 0 where
    they disagree. Otherwise the similarity of the two answers (chrF), in [0, 1].
    """
    truth, shares = prediction.ground_truth or "", prediction.label_probabilities
    if shares is None:
        return sentence_chrf(prediction.predicted or "", truth)
    return shares.get(truth, 0.0) - max(p for name, p in shares.items() if name != truth)


def rank(candidates: Sequence[Input], *, by: str, ask: Ask, draw: random.Random) -> list[Input]:
    """The candidates, the best to label first.

    Args:
        candidates: to choose from.
        by: ``--select``.
        ask: asks the student.
        draw: draws at random.
    """
    if by == "random" or not candidates:
        return draw.sample(candidates, len(candidates))
    asked = ask(candidates)
    order = sorted(range(len(asked)), key=lambda place: -uncertainty(asked[place]))
    return [candidates[place] for place in order]


def hardest(labelled: Sequence[Input], *, ask: Ask, draw: random.Random) -> list[Input]:
    """The labelled inputs on which the student is least sure of the teacher's answer."""
    if len(labelled) > MOST_ASKED:
        labelled = draw.sample(labelled, MOST_ASKED)
    asked = ask(labelled)
    order = sorted(range(len(asked)), key=lambda place: ease(asked[place]))
    return [labelled[place] for place in order[:HARDEST]]


def write_inputs(
    folder: Path,
    hard: Sequence[Input],
    *,
    count: int,
    labelling: LabelConfig,
    open_teacher: OpenTeacher | None,
) -> list[Input]:
    """New inputs that the teacher writes from hard ones; those of a stopped run are read.

    Args:
        folder: of the round.
        hard: what they should be like.
        count: how many.
        labelling: how the teacher labels.
        open_teacher: opens the teacher's engine; None opens the one of ``labelling``.
    """
    examples, written = folder / "examples.jsonl", folder / WRITTEN_FILE
    if not written.is_file():
        given = write_jsonl(examples, ({"text": item.text} for item in hard))
        generate_inputs(
            GenerateConfig(
                examples=examples,
                output_file=written,
                num_inputs=given + count,
                grow=GrowConfig(task=labelling.task, thinking=labelling.votes.thinking),
                model=labelling.model,
                sampling=replace(labelling.sampling, temperature=0.9, prefill=None),
                engine=labelling.engine,
            ),
            open_teacher=open_teacher,
        )
    # Its groups are those of the examples, which are in other rounds too.
    return [replace(item, group=group_of_text(item.text)) for item in read_inputs(written)]


def tokens_of_writing(folder: Path) -> int:
    """Tokens of the requests in which the teacher wrote new inputs of a round."""
    manifest = sibling(folder / WRITTEN_FILE, "manifest")
    return int(read_json(manifest)["counts"]["completion_tokens"]) if manifest.is_file() else 0
