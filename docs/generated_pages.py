"""Pages of the documentation that are made while it is built, so that nothing is written twice.

- `flags.md`: every flag of every command, from the configurations themselves.
- `index.md`, `contributing.md`, `changelog.md`: the files at the root of the repository.
- The layout of result files: a line ``{{ layout of MODULE }}`` becomes a table for each record.

A hook of mkdocs (`hooks:` in mkdocs.yml).
"""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from prompt_distillation.cli.main import COMMANDS
from prompt_distillation.config import Setting, plain_type, settings_of

if TYPE_CHECKING:  # tests read the flags where mkdocs is not installed
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

# Configurations in the calls that read a command line.
READS_FLAGS = re.compile(r"parse_options(?:_with_extra)?\(\s*(\w+Config),")

FLAGS_INTRODUCTION = """# Flags

Every command takes `--config FILE.yaml`, a file with the same names as the flags; flags on the
command line win over the file, and the file wins over the defaults below. A flag whose type is
`bool` may be written `--flag`, `--flag false` or `--no_flag`. Where "none" is allowed, the word
`none` sets it. The same names are keyword arguments in Python. An unknown name is an error that
suggests the nearest one.

`train_sft_trl.py` also accepts every field of TRL's `SFTConfig` by its own name, for example
`--optim adamw_8bit` or `--save_total_limit 3`
([list](https://huggingface.co/docs/trl/sft_trainer#trl.SFTConfig)).

This page is generated from the configurations in `src/prompt_distillation/` when the
documentation is built.
"""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for source, target in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=_as_page(text)))
    files.append(File.generated(config, "flags.md", content=flags_page()))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Put tables in place of ``{{ layout of MODULE }}``."""
    return re.sub(r"\{\{ layout of ([\w.]+) \}\}", lambda match: layout_of(match[1]), markdown)


def layout_of(module_name: str) -> str:
    """Tables of the keys of a module's records, the record that holds the others first."""
    module = importlib.import_module(module_name)
    records = [
        kind
        for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)
        if kind.__module__ == module_name
    ]
    # A module declares a record before those that hold it.
    records.sort(key=lambda kind: inspect.getsourcelines(kind)[1], reverse=True)
    return "\n".join(_record_table(kind) for kind in records)


def _record_table(kind: type[Any]) -> str:
    text = inspect.getdoc(kind) or ""
    described = text.partition("Attributes:")[2]
    # One key a line, "name: meaning", continued on lines that are indented further.
    meanings = dict(re.findall(r"^    (\w+): ((?:.|\n {5,})+)", described, re.MULTILINE))
    rows = []
    for field in dataclasses.fields(kind):
        hint = str(
            field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        )
        hint = re.sub(r"\b(?:\w+\.)+(?=\w)", "", hint).replace("NoneType", "None")
        meaning = " ".join(_plain(meanings.get(field.name, "")).split())
        rows.append(f"| `{field.name}` | `{hint}` | {meaning} |".replace(" | None`", " or None`"))
    heading = f"### {kind.__name__}\n\n{_plain(text.partition(chr(10))[0])}\n"
    return "\n".join([heading, "| key | type | meaning |", "|---|---|---|", *rows, ""])


def _as_page(text: str) -> str:
    """A file of the repository's root as a page: its links lead to pages, or to plain names."""
    text = text.replace("](docs/", "](")
    for source, target in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({target}")
    # What is not a page (a licence, a recipe) keeps its name and loses its link.
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|[\w-]+\.md|assets/)[^)]*\)", r"\1", text)


def flags_page() -> str:
    """The reference of flags, one table per command."""
    parts = [FLAGS_INTRODUCTION]
    for name, (module, purpose) in COMMANDS.items():
        ways = [
            f"`prompt-distillation {name}`",
            *(f"`python {script}`" for script in scripts_of(name)),
        ]
        sentence = _plain(purpose[0].upper() + purpose[1:])
        parts.append(f"## {name}\n\n{sentence}: {' or '.join(ways)}.\n")
        settings = settings_of(configuration_of(module))
        for about in dict.fromkeys(["", *(setting.about for setting in settings)]):
            rows = [_row(setting) for setting in settings if setting.about == about]
            title = f"**{about[:1].upper()}{about[1:]}**\n\n" if about and rows else ""
            header = "| flag | type | default | meaning |\n|---|---|---|---|\n" if rows else ""
            parts.append(title + header + "\n".join(rows) + "\n")
    return "\n".join(parts)


def configuration_of(module: str) -> type[Any]:
    """The configuration of a command, by its module in `prompt_distillation.cli`."""
    source = ROOT / "src" / "prompt_distillation" / "cli" / f"{module}.py"
    found = READS_FLAGS.search(source.read_text(encoding="utf-8"))
    if found is None:
        raise LookupError(f"{source} reads no configuration from its command line")
    config_type = getattr(importlib.import_module(f"prompt_distillation.cli.{module}"), found[1])
    assert isinstance(config_type, type)
    return config_type


def scripts_of(command: str) -> list[str]:
    """Scripts of the repository that are the same command, such as ``create_data.py``."""
    wanted = f'launch("{command}")'
    scripts = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    found = [path for path in scripts if wanted in path.read_text(encoding="utf-8")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def _row(setting: Setting) -> str:
    words = {"low": "at least", "high": "at most", "above": "above"}
    limits = {words[name]: value for name, value in setting.limits.items() if value is not None}
    # Above this a limit guards against slips of the finger; it tells a reader nothing.
    bounds = ", ".join(f"{word} {value:g}" for word, value in limits.items() if value < 65_536)
    meaning = setting.help_text + (f" ({bounds})" if bounds else "")
    default = f"`{setting.default_text}`"
    cells = (f"`--{setting.name}`", _type(setting.hint), default, _plain(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A help text as Markdown that shows it as it is; names in backticks stay code."""
    parts = text.replace("``", "`").split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_\[\]])", r"\\\1", parts[i]).replace("<", "&lt;")
    return "`".join(parts)


def _type(hint: Any) -> str:
    plain = plain_type(hint)
    if get_origin(plain) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(plain))
    if get_origin(plain) is dict:
        return "JSON"
    return {int: "whole number", float: "number", bool: "bool", Path: "path"}.get(plain, "text")
