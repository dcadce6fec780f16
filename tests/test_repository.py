"""What the design says of the code as a whole, held by reading the code."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "prompt_distillation"
NAME = PACKAGE.name

# Each part of the package, and what it may import of the others (itself and errors always).
# Labelling, training and evaluation know nothing of each other: they meet in files.
GROUND = {"checkpoints", "config", "data", "examples", "provenance", "tasks"}
STEPS = {"labelling", "training", "evaluation", "report"}
MAY_IMPORT = {
    "errors": set(),
    "config": set(),
    "examples": set(),
    "yaml_files": set(),
    "provenance": set(),
    "machine": set(),
    "tasks": {"config", "examples", "provenance", "yaml_files"},
    "data": {"config", "provenance", "tasks", "yaml_files"},
    "checkpoints": {"data", "tasks", "provenance"},
    "engines": GROUND | {"machine"},
    "labelling": GROUND | {"engines"},
    "training": GROUND | {"engines", "machine"},
    "evaluation": GROUND | {"engines", "yaml_files"},
    "report": GROUND,
    "student": GROUND | {"engines"},
    "judging": GROUND | {"engines", "labelling"},
    "choosing": GROUND | {"engines", "evaluation", "labelling"},
    "improving": GROUND | STEPS | {"choosing", "yaml_files"},
    "api": GROUND | STEPS | {"improving", "judging"},
    "cli": GROUND | STEPS | {"engines", "improving", "judging", "machine", "yaml_files"},
    "__main__": {"cli"},
}


def git_files(*patterns):
    """Files of the repository, new ones too; ignored ones not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(dotted):
    """``prompt_distillation.engines.base`` -> ``engines``; the package itself -> None."""
    return dotted.split(".")[1] if "." in dotted else None


def imports_of(path):
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == NAME:
                yield from (f"{NAME}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def calls_in(path):
    """``(source of the function called, call)`` for every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        allowed = {"api", "errors", "student"}
    else:
        assert own in MAY_IMPORT, f"{own} is new: say in MAY_IMPORT what it may import"
        allowed = MAY_IMPORT[own] | {own, "errors", "__version__"}
    ours = {part_of(name) for name in imports_of(path) if name.split(".")[0] == NAME}
    assert ours - {None} <= allowed


def test_no_module_is_a_drawer_for_everything():
    names = {path.stem for path in modules()}
    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc"})


def test_every_package_has_its_docstring():
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_huggingfaces_evaluate_is_never_needed():
    """`evaluate.py` at the root hides that package from scripts that are started there."""
    for path in git_files("*.py"):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "evaluate"], path


@pytest.mark.parametrize("library", ["trl", "peft", "transformers.trainer"])
def test_the_libraries_do_not_need_it_either(library):
    """At the root, `import evaluate` finds our script: it must not be what a library gets."""
    code = f"import sys; import {library}; assert 'evaluate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nothing_is_loaded_that_may_run_code():
    for path in git_files("*.py"):
        if ROOT / "tests" in path.parents:
            continue
        names = {name.split(".")[0] for name in imports_of(path)}
        assert names.isdisjoint({"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}), path
        for function, call in calls_in(path):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert function not in {"yaml.load", "yaml.unsafe_load", "eval", "exec"}, path
            assert keywords.get("trust_remote_code") != "True", path
            assert keywords.get("shell") != "True", path
            if function == "torch.load":
                assert keywords.get("weights_only") == "True", path


def test_nothing_is_swallowed():
    for path in git_files("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"
                only = node.body[0] if len(node.body) == 1 else None
                assert not isinstance(only, ast.Pass), f"{path}:{node.lineno}: except: pass"


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in git_files("*.py", "*.sh", "*.yaml", "*.toml"):
        if path != Path(__file__):
            assert not marks.search(path.read_text(encoding="utf-8")), path


def test_no_place_of_one_machine():
    places = re.compile(r"(?<![\w.$}])/(?:home|root|Users|mnt|work)/\w")
    for path in git_files("*.py", "*.sh", "*.yaml", "*.toml", "*.md", "*.json", "*.jinja"):
        found = places.search(path.read_text(encoding="utf-8"))
        if path != Path(__file__):
            assert not found, f"{path}: {found}"


def shell_scripts():
    return [*git_files("*.sh"), ROOT / ".ci" / "run"]


def test_shell_scripts_stop_at_the_first_error_and_can_be_run():
    for path in shell_scripts():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "#!/usr/bin/env bash", path
        assert "set -euo pipefail" in lines, path
        assert os.access(path, os.X_OK), f"{path}: not executable"


def test_shell_scripts_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, *shell_scripts()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["install", "check", "docs", "quickstart"])
def test_scripts_refuse_what_they_do_not_know(script):
    done = subprocess.run(
        ["bash", f"scripts/{script}.sh", "--nonsense"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown argument '--nonsense'; allowed: " in done.stderr


def test_the_design_is_there():
    steps = ("create_data.py", "train_sft_trl.py", "evaluate.py")
    launchers = ("create_data_h100x8.sh", "train_trl.sh")
    documents = ("README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md")
    scripts = ("install.sh", "quickstart.sh", "test.sh", "check.sh", "docs.sh")
    recipes = ("create-data", "train", "evaluate", "evaluate-teacher")
    for name in (
        *steps,
        *launchers,
        *documents,
        *(f"scripts/{script}" for script in scripts),
        *(f"recipes/cpu-example-{recipe}.yaml" for recipe in recipes),
    ):
        assert (ROOT / name).is_file(), name
