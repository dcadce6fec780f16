"""Probes of texts, for what automatic scores miss: character, pressure, perplexity, forgetting.

First every model answers every question, through an engine; a model that is asked several things
is loaded once. Then the student before and after is loaded by transformers, to score texts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config import ModelConfig, SamplingConfig, flat
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.config.probe_config import ProbeConfig
from prompt_distillation.data.files import (
    read_lines,
    refuse_to_overwrite,
    refuse_unsafe_outputs,
    write_json,
)
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.probes import (
    MODEL_TITLES,
    Character,
    Forgetting,
    ProbedInput,
    Probes,
    is_probes,
)
from prompt_distillation.engines import EngineOptions, engine_options
from prompt_distillation.engines.event_loop import run
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.errors import ConfigError, EngineError, InputError
from prompt_distillation.evaluation.character import judge_character, pressure_results
from prompt_distillation.evaluation.comparer import base_of
from prompt_distillation.evaluation.evaluator import OpenModel, open_models
from prompt_distillation.evaluation.likelihood import (
    Conversation,
    ScoredText,
    divergence,
    likelihood_model,
    perplexity,
)
from prompt_distillation.evaluation.predictions import asking_of, predict
from prompt_distillation.evaluation.selection import TestItem, select_inputs
from prompt_distillation.examples import FOLDER
from prompt_distillation.provenance import provenance
from prompt_distillation.tasks import RejectReason, Task, load_task, task_files
from prompt_distillation.yaml_files import read_yaml_mapping

if TYPE_CHECKING:
    import torch

Tell = Callable[[str], None]

PRESSURE_FILE = "pressure.yaml"
MATERIAL = FOLDER / "probes"
NEUTRAL = "neutral"
NEUTRAL_TOKENS = 32
"""Length of the base's answers to neutral prompts: a distribution over the vocabulary is kept for
each token."""

Answers = Sequence[str | None]


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """What one model shows of the texts: of the teacher's answers, of plain text, neutral ones."""

    answers: list[ScoredText | None]
    plain: list[ScoredText | None]
    neutral: "list[torch.Tensor]"


def probe(config: ProbeConfig, *, tell: Tell | None = None) -> Probes:
    """Measure what ``config.probes`` names, and write it; see `prompt_distillation.probe`.

    What the answers show is written before perplexity and forgetting are measured.
    """
    say = tell or (lambda line: None)
    task = load_task(config.test.task)
    _check(config, task)
    questions = read_pressure(task) if "pressure" in config.probe_names else []
    plain = read_passages(config.plain_text_file or MATERIAL / "plain_text.txt")
    items = [*select_inputs(config.test, task).items, *questions]
    categories = [None] * (len(items) - len(questions)) + [item.input.group for item in questions]
    answers = run(_ask(config, task, items, say))
    probes = _of_answers(config, task, items, categories, answers)
    write_json(config.output_file, probes)
    if {"perplexity", "forgetting"} & set(config.probe_names):
        probes = _with_likelihoods(config, probes, items, answers, plain, say)
        write_json(config.output_file, probes)
    return probes


def read_pressure(task: Task) -> list[TestItem]:
    """The questions of the task's own ``pressure.yaml``, or else of the package's.

    Returns:
        The questions, with their category as their group.

    Raises:
        InputError: the file is not a mapping from categories to lists of questions.
    """
    own = task.path / PRESSURE_FILE
    path = own if own.is_file() else MATERIAL / PRESSURE_FILE
    categories = read_yaml_mapping(path, error=InputError)
    items = []
    for category, questions in categories.items():
        texts = questions if isinstance(questions, list) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(
                f"{path}: {category} must be a list of questions, each a text, one or more"
            )
        items += [_item(text, group=category) for text in texts]
    if not items:
        raise InputError(f"{path} holds no questions; give it a category with a list of them")
    return items


def read_passages(path: Path) -> list[str]:
    """The lines of a file of plain text that are not blank.

    Raises:
        InputError: there is no such file, it is not UTF-8, or it is empty.
    """
    passages = [line.strip() for _, line in read_lines(path) if line.strip()]
    if not passages:
        raise InputError(f"{path} holds no text; it needs at least one line")
    return passages


def _item(text: str, *, group: str) -> TestItem:
    return TestItem(
        input=Input(index=0, text=text, group=group), truth=None, teacher=None, trained_on=None
    )


def _check(config: ProbeConfig, task: Task) -> None:
    """Refuse what cannot work before anything is loaded."""
    if "character" in config.probe_names and task.answers.metrics != "text":
        raise ConfigError(
            f"character and pressure are about texts; the answers of the task {task.name!r} are of "
            f"the kind {task.kind}: pass --probes perplexity,forgetting"
        )
    student = config.student
    if student.base_model is None and resolve_model(student.model_name).adapter is None:
        raise ConfigError(
            f"{student.model_name} is a whole model and does not name what it was trained from; "
            "pass --base_model"
        )
    test = config.test
    read = [
        test.test_file, test.ground_truth_file, test.train_data_file, config.plain_text_file,
        *task_files(test.task), task.path / PRESSURE_FILE,
    ]  # fmt: skip
    refuse_unsafe_outputs([config.output_file], read, is_ours=is_probes)
    refuse_to_overwrite([config.output_file], overwrite=config.overwrite)


def _plans(config: ProbeConfig) -> dict[str, EvaluateConfig]:
    """Who is asked, and how: key of `MODEL_TITLES`, or `NEUTRAL`, -> an evaluation's settings."""
    greedy = SamplingConfig(seed=config.teacher_sampling.seed)

    def plan(
        model: ModelConfig,
        sampling: SamplingConfig,
        *,
        prompt: bool = False,
        thinking: bool = False,
    ) -> EvaluateConfig:
        return EvaluateConfig(
            model=model, test=config.test, engine=config.engine, sampling=sampling,
            with_prompt=prompt, thinking=thinking,
        )  # fmt: skip

    base = base_of(config.student)
    teachers, names = config.teacher_sampling, config.probe_names
    plans = {}
    if {"character", "perplexity"} & set(names):
        plans["teacher"] = plan(config.teacher, teachers, prompt=True, thinking=config.thinking)
    if "character" in names:
        plans["teacher_unprompted"] = plan(config.teacher, teachers, thinking=config.thinking)
        plans["student_before"] = plan(base, greedy)
        plans["student"] = plan(config.student, greedy)
    if "forgetting" in names:
        plans[NEUTRAL] = plan(base, replace(greedy, max_tokens=NEUTRAL_TOKENS))
    return plans


async def _ask(
    config: ProbeConfig, task: Task, items: Sequence[TestItem], tell: Tell
) -> dict[str, Answers]:
    """Ask every model its questions: the items, or the neutral prompts."""
    plans = _plans(config)
    neutral = [_item(text, group=NEUTRAL) for text in _neutral_prompts()]
    answers: dict[str, Answers] = {}
    async with aclosing(open_models(plans, tell)) as models:
        async for key, model in models:
            asked = neutral if key == NEUTRAL else items
            tell(f"  {MODEL_TITLES.get(key, key)}: {len(asked)} questions")
            answers[key] = await _answers(model, plans[key], asked, task)
    return answers


async def _answers(
    model: OpenModel, plan: EvaluateConfig, items: Sequence[TestItem], task: Task
) -> Answers:
    found = []
    stream = predict(model.engine, items, task=task, asking=asking_of(plan, task))
    async with aclosing(stream):
        async for prediction in stream:
            found.append(prediction)
    if all(item.reject_reason == RejectReason.ENGINE_ERROR for item in found):
        raise EngineError(f"no question could be answered; the first: {found[0].raw_output}")
    if items[0].input.group == NEUTRAL:  # a label is not asked for, and a cut text will do
        return [item.raw_output for item in found]
    return [item.predicted for item in found]


def _neutral_prompts() -> list[str]:
    return read_passages(MATERIAL / "neutral_prompts.txt")


def _of_answers(
    config: ProbeConfig,
    task: Task,
    items: Sequence[TestItem],
    categories: Sequence[str | None],
    answers: Mapping[str, Answers],
) -> Probes:
    """What the answers show by themselves."""
    given = {key: found for key, found in answers.items() if key != NEUTRAL}
    inputs = [
        ProbedInput(
            category=category,
            text=item.input.text,
            # Questions of one category are not variants of each other, as those of a group are.
            group=item.input.group if category is None else f"{category}: {item.input.text}",
            answers={key: found[place] for key, found in given.items()},
            in_character={},
        )
        for place, (item, category) in enumerate(zip(items, categories, strict=True))
    ]
    character: Character | None = None
    if "character" in config.probe_names:
        inputs, character = judge_character(inputs)
    student = config.student
    return Probes(
        task=task.name,
        teacher=config.teacher.model_name,
        student=student.model_name,
        base_model=base_of(student).model_name,
        character=character,
        pressure=pressure_results(inputs) if character else (),
        perplexity=None,
        forgetting=None,
        inputs=tuple(inputs),
        config=flat(config),
        provenance=provenance(),
    )


def _with_likelihoods(
    config: ProbeConfig,
    probes: Probes,
    items: Sequence[TestItem],
    answers: Mapping[str, Answers],
    plain: Sequence[str],
    tell: Tell,
) -> Probes:
    """Add what the student before and after say of texts."""
    names = config.probe_names
    tested = sum(item.category is None for item in probes.inputs)
    taught = _taught(items[:tested], answers["teacher"][:tested]) if "perplexity" in names else []
    neutral: list[Conversation] = [
        (({"role": "user", "content": prompt},), answer)
        for prompt, answer in zip(_neutral_prompts(), answers.get(NEUTRAL, ()), strict=False)
        if answer
    ]
    passages = plain if "forgetting" in names else []
    models = [
        engine_options(model, config.engine) for model in (base_of(config.student), config.student)
    ]
    encoder = PromptEncoder.of(models[1])
    before, after = (
        _scores_of(options, encoder, taught, passages, neutral, tell) for options in models
    )
    return replace(
        probes,
        perplexity=perplexity(before.answers, after.answers, what="the teacher's answers")
        if "perplexity" in names
        else None,
        forgetting=Forgetting(
            plain_text_file=str(config.plain_text_file or "built in"),
            plain_text=perplexity(before.plain, after.plain, what="plain text"),
            divergence=divergence(before.neutral, after.neutral) if neutral else None,
        )
        if "forgetting" in names
        else None,
    )


def _taught(items: Sequence[TestItem], answers: Answers) -> list[Conversation]:
    """The test inputs as the student sees them, with the teacher's answers."""
    found: list[Conversation] = [
        ((*item.input.history, {"role": "user", "content": item.input.text}), answer)
        for item, answer in zip(items, answers, strict=True)
        if answer is not None
    ]
    if not found:
        raise InputError(
            "the teacher answered none of the inputs, so that there is nothing whose perplexity "
            "could be measured; raise --teacher_max_tokens, pass --no_thinking if the teacher does "
            "not reason, or leave perplexity out of --probes"
        )
    return found


def _scores_of(
    options: EngineOptions,
    encoder: PromptEncoder,
    taught: Sequence[Conversation],
    passages: Sequence[str],
    neutral: Sequence[Conversation],
    tell: Tell,
) -> _Scores:
    tell(f"scoring texts with {options.adapter or options.model}")
    with likelihood_model(options, encoder) as model:
        return _Scores(
            answers=model.score_answers(taught),
            plain=model.score_texts(passages),
            neutral=model.distributions(neutral),
        )
