"""Train the tiny example models: thinking teachers and instruct students, on two CPU cores.

    python tools/build_example_models.py --overwrite   # all six, as they are committed
    python tools/build_example_models.py --only student --output_dir /tmp/models
    python tools/build_example_models.py --steps 20 --output_dir /tmp/smoke  # does it run?

The pair of the task ``language`` is ``teacher`` and ``student``; that of ``persona`` and ``card``
is ``radio-teacher`` and ``radio-student``. ``gpt2-teacher`` and ``gpt2-student`` are dense models
for ``quantumbench``. They see the training split of the example inputs only.
``build.json`` in each folder says with what they were built.
"""

import argparse
import logging
import random
import sys
from pathlib import Path

import torch

from example_models.augmentation import Augmenter
from example_models.building import Build, build_student, build_teacher, train_shared_tokenizer
from example_models.corpus import read_corpus
from example_models.gpt2_building import build_gpt2
from example_models.radio_building import build_radio
from prompt_distillation.data.files import refuse_to_overwrite
from prompt_distillation.errors import PromptDistillationError
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).resolve().parents[1]
BUILDERS = {"teacher": build_teacher, "student": build_student}
RADIO_ROLES = {"radio-teacher": "teacher", "radio-student": "student"}
GPT2_ROLES = {"gpt2-teacher": "teacher", "gpt2-student": "student"}
NAMES = (*BUILDERS, *RADIO_ROLES, *GPT2_ROLES)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "example-models",
        help="where the folders of the models go (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", choices=NAMES, help="build one of them")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        help="optimizer steps of each model, to try it (default: the real ones)",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing folders")
    return parser.parse_args()


def main() -> int:
    """Build what the command line asks for; 2 is the exit code of a user's error."""
    arguments = parse_arguments()
    try:
        build_models(arguments)
    except PromptDistillationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_models(arguments: argparse.Namespace) -> None:
    """Build each model that was asked for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    names = [arguments.only] if arguments.only else NAMES
    folders = {name: arguments.output_dir / name for name in names}
    refuse_to_overwrite(list(folders.values()), overwrite=arguments.overwrite)
    torch.set_num_threads(arguments.threads)
    build = language_build(arguments) if BUILDERS.keys() & folders.keys() else None
    tasks = [load_task(ROOT / "tasks" / name) for name in ("persona", "card")]
    for name, folder in folders.items():
        if build is not None and name in BUILDERS:
            BUILDERS[name](build, folder=folder)
        elif name in GPT2_ROLES:
            build_gpt2(
                GPT2_ROLES[name], ROOT / "example-data", folder=folder,
                seed=arguments.seed, steps=arguments.steps,
            )  # fmt: skip
        else:
            build_radio(
                RADIO_ROLES[name], tasks, ROOT / "example-data", folder=folder,
                seed=arguments.seed, steps=arguments.steps,
            )  # fmt: skip


def language_build(arguments: argparse.Namespace) -> Build:
    """Read the texts of the pair for the task ``language``, and train its tokenizer."""
    task = load_task(ROOT / "tasks" / "language")
    corpus = read_corpus(ROOT / "example-data" / "multilingual.txt", task)
    return Build(
        task=task,
        corpus=corpus,
        tokenizer=train_shared_tokenizer(task, Augmenter(corpus, random.Random(arguments.seed))),
        seed=arguments.seed,
        steps=arguments.steps,
    )


if __name__ == "__main__":
    sys.exit(main())
