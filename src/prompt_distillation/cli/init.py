"""`prompt-distillation init`: a folder to start from, with a task, inputs and a recipe a step."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import Settings, option
from prompt_distillation.errors import ConfigError, OutputExistsError
from prompt_distillation.examples import FOLDER

DESCRIPTION = """\
Write a folder to start from: task.yaml, prompt.md, a few inputs, and a recipe for each step.

  prompt-distillation init mine --kind classification"""

INPUTS = {"classification": "inputs.csv", "text": "inputs.txt", "json": "inputs.csv"}


@dataclass(frozen=True, kw_only=True)
class InitConfig(Settings):
    """Settings of `init`."""

    folder: Path | None = option(None, "the folder to write; the first argument without a flag")
    kind: Literal["classification", "text", "json"] = option(
        "classification", "kind of the answers"
    )


def main(argv: Sequence[str]) -> int | None:
    """Write the folder that ``argv`` names."""
    arguments = list(argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--folder")
    config = parse_options(InitConfig, arguments, description=DESCRIPTION)
    if config.folder is None:
        raise ConfigError("init needs the name of a folder, e.g. `prompt-distillation init mine`")
    written = write_project(config.folder, kind=config.kind)
    lines = [f"  {path.relative_to(config.folder)}" for path in written]
    lines = [f"Wrote {config.folder}:", *lines, f"Next: read {config.folder / 'README.md'}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return None


def write_project(folder: Path, *, kind: str) -> list[Path]:
    """Write a task, its inputs, and the recipes of the three steps into a new folder.

    Raises:
        OutputExistsError: the folder is there and not empty.
        ConfigError: its name cannot name a task.
    """
    from jinja2 import Environment, StrictUndefined

    from prompt_distillation.data.files import atomic_writer

    name = folder.resolve().name
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f"the folder's name {name!r} becomes the task's; use letters, digits, - and _"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(f"{folder} is already there and not empty; choose another name")
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    written = []
    for source in sorted(
        [*(FOLDER / "init" / "shared").iterdir(), *(FOLDER / "init" / kind).iterdir()]
    ):
        text = source.read_text(encoding="utf-8")
        path = folder / source.name
        with atomic_writer(path) as file:
            file.write(environment.from_string(text).render(name=name, inputs=INPUTS[kind]))
        written.append(path)
    return sorted(written)
