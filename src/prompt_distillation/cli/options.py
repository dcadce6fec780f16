"""The command line of a configuration: flags, help with defaults, and ``--config`` YAML files.

The flags follow from the configuration's settings (`prompt_distillation.config`). The command line
wins over the file, and the file over the default.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from prompt_distillation.config import (
    Setting,
    build_config,
    plain_type,
    settings_of,
    split_settings,
    unknown_name,
)
from prompt_distillation.errors import ConfigError
from prompt_distillation.examples import find_example
from prompt_distillation.yaml_files import read_yaml_mapping

Config = TypeVar("Config")


def parse_options(config_type: type[Config], argv: Sequence[str], *, description: str) -> Config:
    """Parse flags (and a ``--config`` file) into ``config_type``; anything unknown is an error."""
    config, extra = parse_options_with_extra(config_type, argv, description=description)
    if extra:
        names = {setting.name: setting for setting in settings_of(config_type)}
        raise ConfigError(unknown_name(next(iter(extra)), names))
    return config


def parse_options_with_extra(
    config_type: type[Config], argv: Sequence[str], *, description: str, epilog: str | None = None
) -> tuple[Config, dict[str, Any]]:
    """As `parse_options`, but hand back what the configuration does not know.

    Returns:
        The configuration, and ``name -> value`` of the other flags (texts, or True for a bare
        flag) and YAML keys (as YAML typed them), for a library's own options.

    Raises:
        ConfigError: a value of the wrong type or outside its range, or a file that is missing or
            not a YAML mapping.
    """
    settings = settings_of(config_type)
    parser = _parser(settings, description=description, epilog=epilog)
    namespace, rest = parser.parse_known_args(list(argv))
    given = vars(namespace)
    file_path = given.pop("config", None)
    values = _read_recipe(Path(file_path)) if file_path else {}
    own, extra = split_settings(config_type, values | given | _read_extra_flags(rest))
    return build_config(config_type, own), extra


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, raised, not printed with the usage."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines; give the options room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def _parser(
    settings: Sequence[Setting], *, description: str, epilog: str | None
) -> argparse.ArgumentParser:
    parser = _Parser(
        usage="%(prog)s [--config FILE] [flags]",
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS,
        help="YAML file with the same names as the flags; the command line wins",
    )  # fmt: skip
    groups: dict[str, Any] = {"": parser}
    for setting in settings:
        group = groups.get(setting.about) or parser.add_argument_group(setting.about)
        groups[setting.about] = group
        _add_flag(group, setting)
    return parser


def _add_flag(group: Any, setting: Setting) -> None:
    flag = f"--{setting.name}"
    help_text = f"{setting.help_text} (default: {setting.default_text})".replace("%", "%%")
    if plain_type(setting.hint) is not bool:
        group.add_argument(
            flag, default=argparse.SUPPRESS, metavar=_metavar(setting.hint), help=help_text
        )
        return
    group.add_argument(
        flag, nargs="?", const="true", default=argparse.SUPPRESS, metavar="BOOL", help=help_text
    )
    group.add_argument(
        f"--no_{setting.name}", dest=setting.name, action="store_const", const="false",
        default=argparse.SUPPRESS, help=argparse.SUPPRESS,
    )  # fmt: skip


def _metavar(hint: Any) -> str:
    plain = plain_type(hint)
    if get_origin(plain) is Literal:
        return "|".join(map(str, get_args(plain)))
    if get_origin(plain) is dict:
        return "JSON"
    return {int: "N", float: "X", Path: "PATH"}.get(plain, "TEXT")


def _read_recipe(path: Path) -> dict[str, Any]:
    path = find_example(path)
    if not path.is_file():
        raise ConfigError(f"no such --config file: {path} (recipes/ has some to start from)")
    return read_yaml_mapping(path, error=ConfigError)


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
