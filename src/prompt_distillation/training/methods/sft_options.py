"""TRL's `SFTConfig` out of our own flags and any of its fields by its own name.

A field comes as a text (command line) or as YAML typed it. Unknown names, values of the wrong type
and fields that would undo what this package promises are errors before a model is loaded.
"""

import dataclasses
import difflib
import logging
import types
import warnings
from collections.abc import Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from prompt_distillation.errors import ConfigError

logger = logging.getLogger(__name__)

FIXED = {
    "completion_only_loss": "the loss is on the answer only, by construction",
    "assistant_only_loss": "the loss is on the answer only, by construction",
    "dataset_text_field": "rows are chat messages",
    "dataset_kwargs": "rows are encoded before TRL sees them",
    "padding_free": "use --fill_micro_batch",
    "truncation_mode": "rows longer than --max_length are left out, never cut",
    "eos_token": "the end of a turn is the model's own",
    "remove_unused_columns": "the columns are this command's own",
    "warmup_ratio": "it is a flag of this command",
}
"""Fields of SFTConfig that are not the user's to set, with what to do instead."""


def refuse_misspelt(options: Mapping[str, Any], *, own_names: frozenset[str]) -> None:
    """Refuse a name that is all but one of the command's own, before TRL's seconds of import.

    Raises:
        ConfigError: such a name, with the one that was meant.
    """
    for name in options:
        # At 0.9 no field of SFTConfig is taken for a misspelt flag.
        close = difflib.get_close_matches(name, sorted(own_names), n=1, cutoff=0.9)
        if close:
            raise ConfigError(f"unknown flag or key {name!r}; did you mean {close[0]!r}?")


def check_sft_options(options: Mapping[str, Any], *, own_names: frozenset[str]) -> dict[str, Any]:
    """Convert options by the types of SFTConfig's fields.

    Args:
        options: name -> text of the command line, True for a bare flag, or a value of YAML.
        own_names: flags of the command itself, for the hint at a misspelt one.

    Raises:
        ConfigError: an unknown name (the closest one is named), a fixed field, a wrong type.
    """
    from trl import SFTConfig

    hints = get_type_hints(SFTConfig)
    fields = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    converted: dict[str, Any] = {}
    for name, value in options.items():
        if name in FIXED:
            raise ConfigError(f"--{name} cannot be set: {FIXED[name]}")
        if name not in fields:
            close = difflib.get_close_matches(name, sorted(own_names | fields), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see --help, or TRL's SFTConfig"
            raise ConfigError(f"unknown flag or key {name!r}; {hint}")
        converted[name] = _convert(name, value, hints[name])
    return converted


def build_sft_config(values: Mapping[str, Any]) -> Any:
    """Construct `SFTConfig`, its own refusals turned into ours.

    Raises:
        ConfigError: values that SFTConfig refuses, e.g. an evaluation without held-out rows.
    """
    from trl import SFTConfig

    try:
        with warnings.catch_warnings():
            # What is deprecated there is named by the user, who sees it in the release notes.
            warnings.simplefilter("ignore", FutureWarning)
            config = SFTConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"SFTConfig refuses the options: {error}") from error
    if "paged" in config.optim and config.device.type == "cpu":
        logger.info("--optim %s: there is nothing to page on a CPU, it stays", config.optim)
        # bitsandbytes says it at the first step, once for each kind of tensor (0.50.2).
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    return config


def _convert(name: str, value: Any, hint: Any) -> Any:
    allowed = _flatten(hint)
    candidates = [value, _from_text(value)] if isinstance(value, str) else [value]
    for candidate in reversed(candidates):
        for kind in allowed:
            fits, converted = _fit(candidate, kind)
            if fits:
                return converted
    names = " or ".join(map(_name_of, allowed))
    raise ConfigError(f"--{name} is {value!r}; SFTConfig takes {names}")


def _name_of(kind: Any) -> str:
    if kind is types.NoneType:
        return "none"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(member.value) for member in kind)
    return str(kind.__name__)


def _flatten(hint: Any) -> list[Any]:
    """The alternatives of a type hint, the strictest first: bool before int before float."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    order = [bool, int, float, list, dict, str, types.NoneType]
    plain = [get_origin(part) or part for part in parts]
    if any(isinstance(part, type) and issubclass(part, Enum) for part in plain):
        # "OptimizerNames | str": only the enum says what is allowed.
        plain = [part for part in plain if part is not str]
    return sorted(plain, key=lambda part: order.index(part) if part in order else len(order))


def _fit(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of ``kind`` as it stands, and the value in that type."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if isinstance(kind, type) and issubclass(kind, Enum):
        members = [member.value for member in kind]
        return value in members, value
    return isinstance(kind, type) and isinstance(value, kind), value


def _from_text(text: str) -> Any:
    """A text as YAML would type it, and ``2e-4`` as the number it is meant to be."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        if value.lower() == "none":
            return None
        try:
            return float(value)
        except ValueError:
            return value
    return value
