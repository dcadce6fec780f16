"""What the documents promise exists: links, files, commands, flags, and Python that compiles."""

import ast
import functools
import importlib.util
import re
import shlex
import textwrap
from pathlib import Path

import pytest

import prompt_distillation
from prompt_distillation.cli.main import COMMANDS
from prompt_distillation.config import settings_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "prompt_distillation"
FOLDERS = (".", "docs", "recipes", "tasks", "data", "models")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
MADE_BY_THE_BUILD = {"index.md", "flags.md", "contributing.md", "changelog.md"}

LAUNCHERS = {"create_data_h100x8.sh": "create_data", "train_trl.sh": "train"}
TAKES_FIELDS_OF_TRL = {"train"}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # pictures too
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`]+)`")


def every_document(test):
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    return pytest.mark.parametrize("path", DOCUMENTS, ids=names)(test)


def text_of(path):
    return path.read_text(encoding="utf-8")


def anchors_of(path):
    """Anchors of a file's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in plain}


def blocks_of(path, language):
    return [body for kind, body in BLOCK.findall(text_of(path)) if kind == language]


def commands_of(path):
    """Words of each command that a document shows, in its shell blocks and in inline code."""
    lines = []
    for body in blocks_of(path, "bash"):
        lines += body.replace("\\\n", " ").splitlines()
    prose = BLOCK.sub("", text_of(path))
    starts = ("python ", "bash ", "prompt-distillation ")
    lines += [code for code in INLINE_CODE.findall(prose) if code.startswith(starts)]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def scripts_in(words):
    """Scripts of the repository that a command runs."""
    return [word for word in words if re.fullmatch(r"[\w/.-]+\.(py|sh)", word)]


@functools.cache
def fields_of_trl():
    """Names of the fields of TRL's configurations, from their sources: importing takes seconds."""
    names = set()
    for module in (
        "trl.trainer.sft_config",
        "trl.trainer.distillation_config",
        "trl.trainer.base_config",
        "transformers.training_args",
    ):
        source = importlib.util.find_spec(module).origin
        for node in ast.walk(ast.parse(Path(source).read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


@functools.cache
def generated_pages():
    """`docs/generated_pages.py`, which finds the commands for the page of flags."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "generated_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def modules_of_scripts():
    """Script -> module of the command that it is."""
    pages = generated_pages()
    modules = {name: module for name, (module, _) in COMMANDS.items()}
    found = {script: modules[name] for name in modules for script in pages.scripts_of(name)}
    return LAUNCHERS | found


@functools.cache
def flags_of(script):
    """Flags that a script knows, without dashes; where it has its own parser, from its text."""
    module = modules_of_scripts().get(script)
    if module is None:
        text = text_of(ROOT / script)
        return {*re.findall(r"--(\w[\w-]*)", text), *re.findall(r"(\w+): .* = option\(", text)}
    return flags_of_command(module)


@functools.cache
def flags_of_command(module):
    known = {setting.name for setting in settings_of(generated_pages().configuration_of(module))}
    known |= {f"no_{name}" for name in known} | {"config", "help"}
    return known | (fields_of_trl() if module in TAKES_FIELDS_OF_TRL else set())


def test_the_readme_fits_on_a_few_screens():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@every_document
def test_links_lead_somewhere(path):
    prose = BLOCK.sub("", text_of(path))
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        if path.parent.name == "docs" and name in MADE_BY_THE_BUILD:
            continue
        file = path.parent / name if name else path
        assert file.exists(), f"a link to {target}"
        assert not anchor or anchor in anchors_of(file), f"a link to {target}"


@every_document
def test_commands_run_scripts_that_exist_with_flags_that_they_know(path):
    for words in commands_of(path):
        shown = " ".join(words)
        scripts = scripts_in(words)
        known = set().union(*map(flags_of, scripts))
        if words[0] == "prompt-distillation" and words[1:]:
            assert words[1] in COMMANDS, f"{shown}: there is no such command"
            known = flags_of_command(COMMANDS[words[1]][0])
        for script in scripts:
            assert (ROOT / script).is_file(), f"{shown}: there is no {script}"
        for word in words:
            if word.startswith("--") and known:
                assert word[2:].partition("=")[0] in known, f"{shown}: there is no {word}"
            if word.startswith(("recipes/", "example-data/", "example-models/")):
                assert (ROOT / word).exists(), f"{shown}: there is no {word}"


@every_document
def test_flags_and_files_named_in_the_text_exist(path):
    files = [found for folder in ("scripts", "tools") for found in (ROOT / folder).glob("*.*")]
    scripts = [str(found.relative_to(ROOT)) for found in files if found.is_file()]
    commands = [flags_of_command(module) for module, _ in COMMANDS.values()]
    known = set().union(*map(flags_of, scripts), *commands)
    for code in INLINE_CODE.findall(BLOCK.sub("", text_of(path))):
        flag = re.match(r"--(\w[\w-]*)", code)
        assert not flag or flag[1] in known, f"a flag that nothing knows: {code}"
        ours = "src|recipes|scripts|tools|benchmarks|tests"
        if re.fullmatch(rf"({ours})/[\w./-]+|\w+/[\w/]+\.py", code):
            places = (ROOT / code, PACKAGE / code)
            assert any(place.exists() for place in places), f"a file that is not there: {code}"


@every_document
def test_tables_of_files_name_what_the_files_hold(path):
    """`| ... | `labelling/votes.py` | `Votes.assess` |`: the file has a function of that name."""
    for row in re.findall(r"^\|(.*\.py`.*)\|$", text_of(path), re.MULTILINE):
        *_, files, names = row.split("|")
        sources = [PACKAGE / file for file in re.findall(r"`([\w/]+\.py)`", files)]
        found = "".join(text_of(source) for source in sources if source.is_file())
        for name in INLINE_CODE.findall(names) if found else ():
            for part in name.split("."):
                assert re.search(rf"\b(def|class) {part}\b|^{part}(:.*)? = ", found, re.M), row


@every_document
def test_python_examples_compile(path):
    for body in blocks_of(path, "python"):
        compile(textwrap.dedent(body), f"an example in {path.name}", "exec")


@every_document
def test_python_examples_use_what_the_package_has(path):
    for body in blocks_of(path, "python"):
        for name in re.findall(r"\bpd\.(\w+)", body):
            assert name in prompt_distillation.__all__, f"an example uses pd.{name}"
