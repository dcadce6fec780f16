"""Each model from its texts to its folder."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from example_models.architecture import new_model
from example_models.augmentation import Augmenter
from example_models.corpus import HELD_OUT_SEED, HELD_OUT_SHARE, Corpus
from example_models.reasoning import (
    END,
    other_system_message,
    small_talk_completion,
    teacher_completion,
)
from example_models.replies import choose_replies
from example_models.saving import save_model
from example_models.tokenizer import train_tokenizer, with_template
from example_models.training import Plan, Row, StepLog, encode_row, train
from prompt_distillation.provenance import provenance
from prompt_distillation.tasks import Task

logger = logging.getLogger(__name__)

VOCABULARY_SIZE = 5120
TEACHER_PLAN = Plan(steps=2400, batch_size=32, peak_learning_rate=2e-3, short_prompt_share=0.6)
STUDENT_PLAN = Plan(steps=1300, batch_size=48, peak_learning_rate=2e-3)

_CONTRAST_SHARE = 0.12
# So many rows are lines as they stand, as labelling meets them; the others are varied.
_ORIGINAL_SHARE = 0.2
_STUDENT_PIECE_DROPOUT = 0.1

# So often the prompt stands in the tokenizer's texts: its words become single tokens, which keeps
# every step of every teacher run short.
_PROMPT_REPEATS = 12


@dataclass(frozen=True, kw_only=True)
class Build:
    """What both models are made from; ``steps`` replaces the plan's, to try the script."""

    task: Task
    corpus: Corpus
    tokenizer: Tokenizer
    seed: int
    steps: int | None

    def plan(self, plan: Plan) -> Plan:
        """The plan, with the steps that were asked for."""
        return plan if self.steps is None else replace(plan, steps=self.steps)


def train_shared_tokenizer(task: Task, augmenter: Augmenter) -> Tokenizer:
    """Train the tokenizer on the training split, the prompt and the reasoning."""
    examples = augmenter.originals()
    thoughts = [teacher_completion(item, augmenter.corpus).removesuffix(END) for item in examples]
    prompts = [task.prompt] * _PROMPT_REPEATS
    texts = [*(item.text for item in examples), *thoughts, *prompts]
    return train_tokenizer(texts, vocabulary_size=VOCABULARY_SIZE)


def build_teacher(build: Build, *, folder: Path) -> None:
    """Train and write the thinking teacher."""
    rng = random.Random(build.seed + 1)
    augmenter = Augmenter(build.corpus, rng)
    originals = augmenter.originals()
    tokenizer = with_template(build.tokenizer, name="teacher")
    prompt_ids = tokenizer(
        f"<|im_start|>system\n{build.task.prompt}{END}\n", add_special_tokens=False
    ).input_ids

    def draw_row() -> Row:
        original = rng.random() < _ORIGINAL_SHARE
        example = rng.choice(originals) if original else augmenter.draw()
        if rng.random() < _CONTRAST_SHARE:
            return encode_row(
                tokenizer, system=other_system_message(rng), text=example.text,
                completion=small_talk_completion(example.text),
            )  # fmt: skip
        completion = teacher_completion(example, build.corpus)
        row = encode_row(tokenizer, system=None, text=example.text, completion=completion)
        return replace(row, shared_prompt=0)

    train_and_save(
        build.tokenizer, draw_row, build.plan(TEACHER_PLAN),
        folder=folder, manifest=_manifest(build, "teacher"), prompts=[prompt_ids],
    )  # fmt: skip


def build_student(build: Build, *, folder: Path) -> None:
    """Train and write the instruct student."""
    rng = random.Random(build.seed + 2)
    augmenter = Augmenter(build.corpus, rng)
    originals = augmenter.originals()
    replies = choose_replies(build.corpus, rng)
    tokenizer = with_template(build.tokenizer, name="student")

    def draw_row() -> Row:
        original = rng.random() < _ORIGINAL_SHARE
        example = rng.choice(originals) if original else augmenter.draw()
        return encode_row(
            tokenizer, system=None, text=example.text, completion=replies.completion(example),
            piece_dropout=_STUDENT_PIECE_DROPOUT,
        )  # fmt: skip

    train_and_save(
        build.tokenizer, draw_row, build.plan(STUDENT_PLAN),
        folder=folder, manifest=_manifest(build, "student"),
    )  # fmt: skip


def _manifest(build: Build, role: str) -> dict[str, object]:
    return {
        "role": role,
        "seed": build.seed,
        "held_out": {"share": HELD_OUT_SHARE, "seed": HELD_OUT_SEED},
        "prompt_sha256": build.task.prompt_sha256,
    }


def train_and_save(
    tokenizer: Tokenizer,
    draw_row: Callable[[], Row],
    plan: Plan,
    *,
    folder: Path,
    manifest: Mapping[str, object],
    prompts: Sequence[Sequence[int]] = (),
    hidden_size: int = 192,
) -> None:
    """Train a new model and write its folder.

    Args:
        tokenizer: without a template.
        draw_row: gives the rows to train on.
        plan: how long and how fast.
        folder: where the model goes, named as it is.
        manifest: what it is built with, ``seed`` and ``role`` among it, for ``build.json``.
        prompts: token ids of the prompts that rows share.
        hidden_size: of the model.
    """
    role = str(manifest["role"])
    wrapped = with_template(tokenizer, name=role)
    model = new_model(wrapped, seed=int(str(manifest["seed"])), hidden_size=hidden_size)
    fit_and_save(model, wrapped, draw_row, plan, folder=folder, manifest=manifest, prompts=prompts)


def fit_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    draw_row: Callable[[], Row],
    plan: Plan,
    *,
    folder: Path,
    manifest: Mapping[str, object],
    prompts: Sequence[Sequence[int]] = (),
) -> None:
    """Train a model with random weights and write its folder; see `train_and_save`."""
    name = folder.name
    parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%s: %.2f M parameters, %d steps", name, parameters / 1e6, plan.steps)

    def show(log: StepLog) -> None:
        logger.info(
            "%s step %d/%d  loss %.4f  %.0f s", name, log.step, plan.steps, log.loss, log.seconds
        )

    rng = random.Random(int(str(manifest["seed"])) + 3)
    logs = train(model, draw_row, plan, prompts=prompts, rng=rng, on_log=show)
    whole = {
        **manifest,
        "parameters": parameters,
        "prompt_tokens": sum(map(len, prompts)),
        "plan": asdict(plan),
        "log": [asdict(log) for log in logs],
        "provenance": provenance(),
    }
    save_model(model, tokenizer, folder=folder, manifest=whole)
    logger.info("%s written to %s", name, folder)
