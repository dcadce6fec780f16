"""From one frozen dataclass a command: flags, help with defaults, YAML files, clear errors.

Each field is written once, with `option`; the flag, its help line, its YAML key and its check
follow from it. The command line wins over the file, and the file over the default.
"""

import argparse
import dataclasses
import difflib
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import yaml

from prompt_distillation.errors import ConfigError

Config = TypeVar("Config")

_TRUE = {"true", "yes", "1"}
_FALSE = {"false", "no", "0"}


def option(default: Any, text: str) -> Any:
    """A dataclass field that is a flag: its default, and its help with the unit."""
    return dataclasses.field(default=default, metadata={"help": text})


def parse_options(config_type: type[Config], argv: Sequence[str], *, description: str) -> Config:
    """Parse flags (and a ``--config`` file) into ``config_type``; anything unknown is an error."""
    config, extra = parse_options_with_extra(config_type, argv, description=description)
    if extra:
        raise ConfigError(_unknown(next(iter(extra)), config_type, what="flag or key"))
    return config


def parse_options_with_extra(
    config_type: type[Config], argv: Sequence[str], *, description: str, epilog: str | None = None
) -> tuple[Config, dict[str, Any]]:
    """As `parse_options`, but hand back what the dataclass does not know.

    Returns:
        The configuration, and ``name -> value`` of the other flags (texts, or True for a bare
        flag) and YAML keys (as YAML typed them), for a library's own options.

    Raises:
        ConfigError: a value of the wrong type or outside its choices, or a file that is missing
            or no YAML mapping.
    """
    parser = _parser(config_type, description=description, epilog=epilog)
    namespace, rest = parser.parse_known_args(list(argv))
    given = vars(namespace)
    file_path = given.pop("config", None)
    values = _read_yaml(Path(file_path)) if file_path else {}
    hints = get_type_hints(config_type)
    known = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    typed = {
        name: _convert(value, hints[name], name=name)
        for name, value in (values | given).items()
        if name in known
    }
    extra = {name: value for name, value in values.items() if name not in known}
    extra |= _read_extra_flags(rest)
    return config_type(**typed), extra


def resolved(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it, for a manifest."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }


def check_range(name: str, value: float | None, *, low: float, high: float | None = None) -> None:
    """Raise `ConfigError` unless ``low <= value <= high``; None passes."""
    if value is None:
        return
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"--{name} is {value}; it must be {allowed}")


def check_server_url(url: str | None) -> None:
    """Raise `ConfigError` for a URL that holds a password: manifests and messages would show it."""
    try:
        held = url is not None and urlsplit(url).username is not None
    except ValueError as error:
        raise ConfigError(f"--server_url is no URL: {error}") from error
    if held:
        raise ConfigError(
            "--server_url holds a user or a password, which would stand in the manifest; leave it "
            "out: a key is only read from the environment variable OPENAI_API_KEY"
        )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, raised, not printed with the usage."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines; give the options room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def _parser(
    config_type: type[Any], *, description: str, epilog: str | None
) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description, epilog=epilog, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS,
        help="YAML file with the same names as the flags; the command line wins",
    )  # fmt: skip
    hints = get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        hint, default = hints[field.name], field.default
        text = field.metadata["help"].replace("%", "%%")
        shown = (
            "none" if default is None else str(default).lower() if _plain(hint) is bool else default
        )
        text = f"{text} (default: {shown})"
        flag = f"--{field.name}"
        if _plain(hint) is bool:
            parser.add_argument(
                flag, nargs="?", const="true", default=argparse.SUPPRESS, metavar="BOOL", help=text
            )
            parser.add_argument(
                f"--no_{field.name}", dest=field.name, action="store_const", const="false",
                default=argparse.SUPPRESS, help=argparse.SUPPRESS,
            )  # fmt: skip
        else:
            parser.add_argument(flag, default=argparse.SUPPRESS, metavar=_metavar(hint), help=text)
    return parser


def _plain(hint: Any) -> Any:
    """The type without its None."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [part for part in get_args(hint) if part is not types.NoneType]
    return hint


def _metavar(hint: Any) -> str:
    plain = _plain(hint)
    if get_origin(plain) is Literal:
        return "|".join(map(str, get_args(plain)))
    return {int: "N", float: "X", Path: "PATH"}.get(plain, "TEXT")


def _convert(value: Any, hint: Any, *, name: str) -> Any:
    """Turn a text of the command line, or a value of YAML, into the field's type."""
    plain = _plain(hint)
    optional = plain is not hint
    if value is None or (optional and value in ("none", "None")):
        if optional:
            return None
        raise ConfigError(f"--{name} is empty; it needs a value")
    if get_origin(plain) is Literal:
        if value not in get_args(plain):
            allowed = ", ".join(map(str, get_args(plain)))
            raise ConfigError(f"--{name} is {value!r}; allowed are {allowed}")
        return value
    if plain is bool:
        text = str(value).lower()
        if text in _TRUE | _FALSE:
            return text in _TRUE
        raise ConfigError(f"--{name} is {value!r}; allowed are true and false")
    if plain in (int, float):
        return _convert_number(value, plain, name=name)
    if isinstance(value, dict | list):
        raise ConfigError(f"--{name} is {value!r}; a single value is wanted")
    if value == "":
        # Nearly always a shell variable that is not set; Path("") would be the current folder.
        raise ConfigError(f"--{name} is empty; it needs a value")
    return Path(value).expanduser() if plain is Path else plain(value)


def _convert_number(value: Any, plain: type[int] | type[float], *, name: str) -> int | float:
    try:
        if isinstance(value, bool):
            raise ValueError
        if plain is int and isinstance(value, float) and value != int(value):
            raise ValueError
        number = plain(value)
        if not math.isfinite(number):  # every comparison with nan is false: no range would stop it
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError) as error:
        kind = "a whole number" if plain is int else "a number"
        raise ConfigError(f"--{name} is {value!r}; it must be {kind}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no such --config file: {path} (recipes/ holds some to start from)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: a mapping of flags is wanted, got a {type(values).__name__}")
    if not all(isinstance(key, str) for key in values):
        # YAML 1.1 reads a bare `on`, `yes` or `no` as a truth value, as a key too.
        raise ConfigError(f"{path}: every key must be a text, got {list(values)}")
    return dict(values)


def _read_extra_flags(rest: list[str]) -> dict[str, Any]:
    """Pair up ``--name value``, ``--name=value`` and bare ``--name`` of unknown flags."""
    extra: dict[str, Any] = {}
    name: str | None = None
    for part in rest:
        if part.startswith("--") and len(part) > 2:
            name, equals, value = part[2:].partition("=")
            extra[name] = value if equals else True
            name = None if equals else name
        elif name is not None:
            extra[name] = part
            name = None
        else:
            raise ConfigError(f"unexpected argument {part!r}; every value belongs to a --flag")
    return extra


def _unknown(name: str, config_type: type[Any], *, what: str) -> str:
    names = [field.name for field in dataclasses.fields(config_type)]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see --help for the list"
    return f"unknown {what} {name!r}; {hint}"
