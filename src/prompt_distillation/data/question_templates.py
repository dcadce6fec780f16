"""Inputs made from templates: ``What do you think of {composer}?``, filled from lists.

A file of templates is YAML::

    slots:
      composer: [Bach, Handel]
    categories:
      musical:
        - "What do you think of {composer}?"
"""

import math
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.errors import InputError
from prompt_distillation.yaml_files import read_yaml_mapping

_SLOT = re.compile(r"\{(\w+)\}")
_MOST_DRAWN = 100_000
"""Texts of one template that are drawn at most, of perhaps billions."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The templates of a file.

    Attributes:
        slots: name -> what it may be filled with.
        categories: name -> its templates.
    """

    slots: Mapping[str, tuple[str, ...]]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def combinations(self) -> int:
        """How many texts there are, near-duplicates included."""
        return sum(
            self._combinations_of(one) for texts in self.categories.values() for one in texts
        )

    def _combinations_of(self, template: str) -> int:
        return math.prod(len(self.slots[name]) for name in _names(template))

    def texts_of(self, template: str, *, seed: int) -> Iterator[str]:
        """The texts of one template, each once, in an order that ``seed`` decides."""
        count = min(self._combinations_of(template), sys.maxsize)
        # Seeded with a text, random.Random gives the same numbers in every process.
        order = random.Random(f"{seed}:{template}").sample(range(count), min(count, _MOST_DRAWN))
        return (self._fill(template, number) for number in order)

    def _fill(self, template: str, number: int) -> str:
        values = {}
        for name in _names(template):
            number, choice = divmod(number, len(self.slots[name]))
            values[name] = self.slots[name][choice]
        text = _SLOT.sub(lambda match: values[match[1]], template)
        return text[:1].upper() + text[1:]


def _names(template: str) -> list[str]:
    """The slots of a template, each once."""
    return list(dict.fromkeys(_SLOT.findall(template)))


def draw(
    templates: Templates, *, seed: int, keep: Callable[[str], bool]
) -> Iterator[tuple[str, str, str]]:
    """Yield ``(text, category, template)``, balanced over categories and over their templates.

    Categories take turns, and within one, the template that gave the fewest texts is next. One
    that has no texts left drops out.

    ``keep`` is asked about each text; where it says no, the category gives another one instead.
    """
    left = [
        {one: templates.texts_of(one, seed=seed) for one in texts}
        for texts in templates.categories.values()
    ]
    names, given = list(templates.categories), Counter[str]()
    while any(left):
        for name, texts in zip(names, left, strict=True):
            while texts:
                template = min(texts, key=lambda one: given[one])
                text = next(texts[template], None)
                if text is None:
                    del texts[template]
                elif keep(text):
                    given[template] += 1
                    yield text, name, template
                    break


def read_templates(path: Path) -> Templates:
    """Read and check a file of templates.

    Raises:
        InputError: no such file, not YAML, a slot without a list, a list that nothing uses, or
            texts that are not texts.
    """
    if not path.is_file():
        raise InputError(f"no such file of templates: {path}; see tasks/beethoven/questions.yaml")
    fields = read_yaml_mapping(path, error=InputError)
    if unknown := sorted(set(fields) - {"slots", "categories"}):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; known are categories and slots")
    slots = _lists(fields.get("slots") or {}, path=path, what="slot")
    categories = _lists(fields.get("categories"), path=path, what="category")
    every = [text for texts in categories.values() for text in texts]
    if twice := [text for text, count in Counter(every).items() if count > 1]:
        raise InputError(f"{path}: the template {twice[0]!r} stands there twice; remove one")
    used = {name for text in every for name in _names(text)}
    if missing := sorted(used - set(slots)):
        raise InputError(f"{path}: a template uses {{{missing[0]}}}, and there is no such slot")
    if unused := sorted(set(slots) - used):
        raise InputError(f"{path}: no template uses the slot {unused[0]!r}; use it or remove it")
    return Templates(slots=slots, categories=categories)


def _lists(value: Any, *, path: Path, what: str) -> dict[str, tuple[str, ...]]:
    """A mapping of names to lists of texts."""
    if not isinstance(value, dict) or (what == "category" and not value):
        raise InputError(f"{path}: no {what} with a list of texts; see tasks/beethoven for one")
    found = {}
    for name, texts in value.items():
        if not isinstance(texts, list) or not texts:
            raise InputError(f"{path}: the {what} {name!r} needs a list of texts")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"{path}: the {what} {name!r} holds {text!r}; each entry must be a text (put "
                    "it in quotes)"
                )
        found[str(name)] = tuple(text.strip() for text in texts)
    return found
