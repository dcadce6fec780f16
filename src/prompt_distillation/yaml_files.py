"""YAML files, read strictly: safe tags only, no key twice, one clear line for what is wrong."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from prompt_distillation.errors import PromptDistillationError

_MOST_BITS = 128
"""Of a whole number: a larger one is a slip, and Python cannot even show it in a message."""
_MOST_NODES = 100_000
"""Values in a file, its aliases written out: a few lines of aliases can stand for billions."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice: YAML would keep the last in silence."""

    # Its own: lm-format-enforcer, which vLLM imports, lets every safe loader read dates as texts.
    yaml_constructors: ClassVar[dict[str | None, Any]] = yaml.SafeLoader.yaml_constructors | {
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_timestamp
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep=deep)
        where = f"in line {node.start_mark.line + 1}"
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise yaml.YAMLError(f"a whole number of {value.bit_length()} bits {where}")
        if isinstance(value, str) and any("\ud800" <= mark <= "\udfff" for mark in value):
            raise yaml.YAMLError(f"half a character {where}; write the whole one, unescaped")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the parent says so
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key!r} appears twice, again in line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _count_nodes(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """Values below a node, its aliases written out; raises `yaml.YAMLError` for too many."""
    if node in counted:
        return counted[node]
    counted[node] = _MOST_NODES  # an alias of itself never ends
    below = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for entry in below for part in (entry if isinstance(entry, tuple) else (entry,))]
    total = 1 + sum(_count_nodes(part, counted) for part in parts)
    if total > _MOST_NODES:
        raise yaml.YAMLError(f"its aliases (*name) stand for more than {_MOST_NODES:,} values")
    counted[node] = total
    return total


def read_yaml_mapping(path: Path, *, error: type[PromptDistillationError]) -> dict[str, Any]:
    """Read a YAML file that holds one mapping of names to values; an empty file is an empty one."""
    try:
        # UTF-8 with or without a byte-order mark.
        loader = _StrictLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if node is not None:
            _count_nodes(node, {})
        values = loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError, KeyError, RecursionError, OverflowError) as problem:
        # ValueError: not UTF-8, a date like 2024-13-45, or an integer of thousands of digits;
        # KeyError: `!!bool` before something else.
        reason = " ".join(str(problem).split())[:300]
        raise error(f"{path}: not valid YAML ({reason})") from problem
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise error(f"{path}: expected a mapping of names to values, got a {type(values).__name__}")
    if not all(isinstance(key, str) for key in values):
        # YAML 1.1 reads a bare `on`, `yes` or `no` as a truth value, as a key too.
        raise error(f"{path}: every key must be a text, got {list(values)} (quote 'no', 'yes')")
    return values
