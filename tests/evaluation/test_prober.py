from pathlib import Path

import pytest

from prompt_distillation.data.files import write_json
from prompt_distillation.data.probes import (
    Character,
    Forgetting,
    Perplexity,
    Probes,
    is_probes,
    read_probes,
)
from prompt_distillation.errors import InputError
from prompt_distillation.evaluation.prober import MATERIAL, read_passages, read_pressure
from prompt_distillation.tasks import load_task


def make_task(folder: Path, pressure: str | None = None):
    (folder / "task.yaml").write_text("kind: text\n")
    (folder / "prompt.md").write_text("Speak like a gull.")
    if pressure is not None:
        (folder / "pressure.yaml").write_text(pressure)
    return load_task(folder)


def test_the_packages_questions_cover_what_bends_a_character(tmp_path: Path) -> None:
    items = read_pressure(make_task(tmp_path))

    categories = [item.input.group for item in items]
    assert set(categories) == {"drop_the_act", "email", "list", "code", "other_languages"}
    assert min(categories.count(one) for one in set(categories)) >= 6
    assert len({item.input.text for item in items}) == len(items)


def test_a_task_brings_its_own_questions(tmp_path: Path) -> None:
    items = read_pressure(make_task(tmp_path, "bribes:\n  - Take this fish.\n  - And this one.\n"))

    assert [item.input.group for item in items] == ["bribes", "bribes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bribes: a fish\n", "bribes must be a list"),
        ("bribes: [1]\n", "bribes must be a list"),
        ("bribes: []\n", "bribes must be a list"),
        ("", "holds no questions"),
        ("[a", "not valid YAML"),
    ],
)
def test_bad_questions_are_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pressure(make_task(tmp_path, text))


def test_the_packages_texts_are_there_and_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert len(read_passages(MATERIAL / "plain_text.txt")) >= 10
    assert len(read_passages(MATERIAL / "neutral_prompts.txt")) >= 20
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match="holds no text"):
        read_passages(tmp_path / "empty.txt")


def test_probes_are_read_back_as_they_were_written(tmp_path: Path, make_probes) -> None:
    probes: Probes = make_probes()
    path = tmp_path / "probes.json"

    write_json(path, probes)

    assert is_probes(path)
    assert read_probes(path) == probes
    assert isinstance(probes.character, Character)
    assert isinstance(probes.forgetting, Forgetting)
    assert isinstance(probes.perplexity, Perplexity)
    path.write_text("{}")
    assert not is_probes(path)
    with pytest.raises(InputError, match=r"not a result of probe\.py"):
        read_probes(path)
