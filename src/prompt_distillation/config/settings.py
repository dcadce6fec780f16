"""Settings: typed, checked, and declared once, in blocks that the commands share.

A command's configuration is a frozen dataclass of options and of blocks of options::

    @dataclass(frozen=True, kw_only=True)
    class LabelConfig(Settings):
        input_file: Path = option(Path("inputs.txt"), "one input a line")
        model: ModelConfig = block(ModelConfig, model_name="Qwen/Qwen3-30B-A3B-Thinking-2507")

Blocks are nested in Python and flat everywhere else: ``--model_name`` on the command line,
``model_name:`` in YAML and ``label(model_name=...)`` in a notebook are the same setting. A block
that stands twice in one command gets a prefix (``--teacher_temperature``).
"""

import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from prompt_distillation.errors import ConfigError

Config = TypeVar("Config")

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
EngineKind = Literal["auto", "vllm", "transformers", "server"]
Duplicates = Literal["normalised", "exact"]

_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}
_LARGEST_WHOLE_NUMBER = 2**63 - 1


def option(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field that is a setting.

    Args:
        default: its value where nothing is given.
        help_text: one line for ``--help`` and the documentation, with the unit.
        low: smallest allowed number.
        high: largest allowed number.
        above: every allowed number is larger than this.
    """
    limits = {"low": low, "high": high, "above": above}
    return dataclasses.field(default=default, metadata={"help": help_text, "limits": limits})


def share(default: float | None, help_text: str) -> Any:
    """An `option` between 0 and 1."""
    return option(default, help_text, low=0, high=1)


def block(
    kind: type[Any],
    *,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
    omit: tuple[str, ...] = (),
    **defaults: Any,
) -> Any:
    """A dataclass field that is a block of settings.

    Args:
        kind: the block's dataclass.
        prefix: put before the names of its settings, where a command has the block twice.
        rename: setting -> its name in this command, where the prefix does not make it.
        omit: settings that this command does not have; they keep their defaults.
        defaults: what differs in this command from the block's own defaults.
    """
    names = {field.name: f"{prefix}{field.name}" for field in dataclasses.fields(kind)}
    names |= rename or {}
    flags = {name: flag for name, flag in names.items() if name not in omit}
    metadata = {"kind": kind, "flags": flags, "defaults": defaults}
    return dataclasses.field(default_factory=lambda: kind(**defaults), metadata=metadata)


class Settings:
    """Base of configurations and blocks: numbers are within their limits, however it was made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                check_range(field.name, value, **field.metadata["limits"])

    @classmethod
    def of(cls, **values: Any) -> Self:
        """A configuration by its flat names, blocks or not; see `build_config`."""
        return build_config(cls, values)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which model, and how its files are read.

    Attributes:
        model_name: a folder with a model or an adapter, a hub name, or a server's name for it.
        base_model: what an adapter is put on; None takes the base that the adapter names.
    """

    model_name: str = option("none", "hub name or folder; with a server, its name for the model")
    base_model: str | None = option(
        None, "base model of an adapter; none: the one that the adapter names"
    )
    revision: str | None = option(None, "branch, tag or commit of the model on the hub")
    dtype: Dtype = option(
        "auto",
        "type of the weights; auto: the checkpoint's; in training, bfloat16 on a GPU with LoRA and "
        "float32 elsewhere",
    )
    trust_remote_code: bool = option(False, "run Python code that ships with the model")
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "JSON object of arguments for the chat template, e.g. '{\"enable_thinking\": false}'"
    )
    chat_template_path: Path | None = option(
        None,
        ".jinja file to use instead of the model's own chat template; a model that only continues "
        "text, such as GPT-2, has none: recipes/plain-chat.jinja is one for it",
    )


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Settings):
    """What runs a model, and with how much of the machine."""

    engine: EngineKind = option("auto", "what runs the model; auto: vLLM where it can run")
    server_url: str | None = option(
        None, "base URL of an OpenAI-compatible server, ending in /v1, for the engine `server`"
    )
    request_timeout_seconds: float = option(
        600.0, "longest time for one request to a server, in seconds", low=0.1
    )
    tensor_parallel_size: int = option(1, "GPUs that share one copy of the model", low=1)
    max_model_len: int | None = option(
        None, "longest prompt and answer together, in tokens; none: the model's limit", low=1
    )
    gpu_memory_utilization: float = option(
        0.9, "share of each GPU's memory that vLLM may use", low=0.01, high=1
    )
    max_concurrency: int | None = option(
        None, "most requests at a time; none: the engine decides", low=1, high=65_536
    )
    ray_address: str | None = option(
        None, "run on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT; none: run here"
    )
    ray_workers: int | None = option(
        None,
        "number of engines on the cluster; none: as many as its GPUs allow",
        low=1,
        high=65_536,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server_url is not None:
            _refuse_password(self.server_url)
        if self.engine == "server" and not self.server_url:
            raise ConfigError("--engine server needs --server_url, e.g. http://localhost:8000/v1")
        if self.engine == "server" and self.ray_address:
            raise ConfigError(
                "--ray_address is for engines that load the model; leave it out with --engine "
                "server"
            )
        if self.ray_workers and not self.ray_address:
            raise ConfigError(
                f"--ray_workers is {self.ray_workers} without a cluster; pass --ray_address too, "
                "e.g. local"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How answers are drawn."""

    temperature: float = option(0.0, "sampling temperature; 0 is greedy", low=0, high=2)
    top_p: float = option(
        1.0, "sample only from the most likely tokens with this total probability", above=0, high=1
    )
    max_tokens: int | None = option(
        None, "longest answer in tokens, reasoning included", low=1, high=2**24
    )
    max_thinking_tokens: int | None = option(
        None,
        "longest reasoning in tokens, after which the model has to answer, if the engine can do it",
        low=1,
        high=2**24,
    )
    prefill: str | None = option(None, "text at the start of the answer, which the model continues")
    seed: int = option(0, "random seed", low=0, high=_LARGEST_WHOLE_NUMBER)


@dataclass(frozen=True, kw_only=True)
class InputConfig(Settings):
    """Which rows of an input file are taken, and what their fields are called."""

    text_field: str = option("text", "field or column with the text")
    label_field: str = option("label", "field or column with the gold label, if there is one")
    group_field: str = option(
        "group", "field or column with the group; a group is never split between training and test"
    )
    max_samples: int | None = option(None, "take only the first N inputs; none: all", low=1)


@dataclass(frozen=True, kw_only=True)
class TokenPriceConfig(Settings):
    """What a model's tokens cost, in any one currency."""

    price_per_million_input_tokens: float | None = option(
        None, "price of a million input tokens", low=0
    )
    price_per_million_cached_tokens: float | None = option(
        None, "price of a million cached input tokens; none: as other input tokens", low=0
    )
    price_per_million_output_tokens: float | None = option(
        None, "price of a million output tokens", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        given = (*prices, self.price_per_million_cached_tokens) != (None, None, None)
        if given and None in prices:
            raise ConfigError(
                "--price_per_million_input_tokens and --price_per_million_output_tokens belong "
                "together; pass both or neither"
            )

    def cost(
        self, *, input_tokens: float, output_tokens: float, cached_tokens: float = 0
    ) -> float | None:
        """What tokens cost, None without prices; ``cached_tokens`` are part of the input tokens."""
        price = self.price_per_million_input_tokens
        output_price = self.price_per_million_output_tokens
        if price is None or output_price is None:
            return None
        cached_price = self.price_per_million_cached_tokens
        cached = cached_tokens * (price if cached_price is None else cached_price)
        return (
            (input_tokens - cached_tokens) * price + cached + output_tokens * output_price
        ) / 1e6


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a command, as the flags, YAML keys and keyword arguments know it.

    Attributes:
        name: flat name, e.g. ``teacher_temperature``.
        path: where its value is in the nested configuration.
        limits: ``low``, ``high`` and ``above``; None where there is none.
        about: what its block is about; empty for settings of the command itself.
    """

    name: str
    path: tuple[str, ...]
    about: str
    hint: Any
    default: Any
    help_text: str
    limits: Mapping[str, float | None]

    @property
    def default_text(self) -> str:
        """The default as a person writes it; of a switch, None is ``auto``."""
        is_switch = plain_type(self.hint) is bool
        if self.default is None:
            return "auto" if is_switch else "none"
        return str(self.default).lower() if is_switch else str(self.default)


def settings_of(config_type: type[Any]) -> list[Setting]:
    """All settings of a configuration, blocks flattened, in the order they were declared."""
    return list(_settings(config_type, path=(), flags=None, defaults={}))


def split_settings(
    config_type: type[Any], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values that are settings of a configuration, and those that are not."""
    known = {setting.name for setting in settings_of(config_type)}
    own = {name: value for name, value in values.items() if name in known}
    return own, {name: value for name, value in values.items() if name not in known}


def _about(config_type: type[Any], path: tuple[str, ...]) -> str:
    """The heading of a block's settings: its name, and the first line of its docstring."""
    if not path:
        return ""
    summary = (config_type.__doc__ or "").partition("\n")[0].rstrip(".")
    return f"{path[-1].replace('_', ' ')}: {summary[:1].lower()}{summary[1:]}"


def _settings(
    config_type: type[Any],
    *,
    path: tuple[str, ...],
    flags: Mapping[str, str] | None,
    defaults: Mapping[str, Any],
) -> Iterator[Setting]:
    hints = get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        meta = field.metadata
        if "kind" in meta:
            yield from _settings(
                meta["kind"],
                path=(*path, field.name),
                flags=meta["flags"],
                defaults=meta["defaults"],
            )
            continue
        if flags is not None and field.name not in flags:
            continue
        yield Setting(
            name=flags[field.name] if flags else field.name,
            path=(*path, field.name),
            about=_about(config_type, path),
            hint=hints[field.name],
            default=defaults.get(field.name, field.default),
            help_text=meta["help"],
            limits=meta["limits"],
        )


def build_config(config_type: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a configuration from flat names and values of any source.

    Raises:
        ConfigError: an unknown name (the nearest one is named), or a value of the wrong type or
            outside its range.
    """
    settings = {setting.name: setting for setting in settings_of(config_type)}
    for name in values:
        if name not in settings:
            raise ConfigError(unknown_name(name, settings))
    tree: dict[str, Any] = {}
    for name, value in values.items():
        setting = settings[name]
        node = tree
        for part in setting.path[:-1]:
            node = node.setdefault(part, {})
        node[setting.path[-1]] = _checked(setting, value)
    return _assemble(config_type, tree, {})


def _assemble(kind: type[Config], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    values: dict[str, Any] = dict(defaults)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if "kind" in field.metadata:
            meta = field.metadata
            try:
                values[field.name] = _assemble(
                    meta["kind"], given.get(field.name, {}), meta["defaults"]
                )
            except ConfigError as error:
                raise ConfigError(_with_flags(str(error), meta["flags"])) from error
        elif field.name in given:
            values[field.name] = given[field.name]
    return kind(**values)


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """A block's message with the names that its settings have in this command."""
    return re.sub(r"--(\w+)", lambda found: f"--{flags.get(found[1], found[1])}", message)


def flat(config: Any) -> dict[str, Any]:
    """A configuration as flat names and values that JSON can hold, for manifests and recipes."""
    values = {}
    for setting in settings_of(type(config)):
        value = config
        for part in setting.path:
            value = getattr(value, part)
        values[setting.name] = str(value) if isinstance(value, Path) else value
    return values


def unknown_name(name: str, known: Mapping[str, object]) -> str:
    """The error message for an unknown flag or key, with the closest known one."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see --help for the list"
    return f"unknown flag or key {name!r}; {hint}"


def _checked(setting: Setting, value: Any) -> Any:
    value = convert(value, setting.hint, name=setting.name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_range(setting.name, value, **setting.limits)
    return value


def check_range(
    name: str,
    value: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> None:
    """Raise `ConfigError` unless ``value`` is within its limits; None passes."""
    if value is None:
        return
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if not too_low and (high is None or value <= high):
        return
    bounds = [f"at least {low}"] if low is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    if low is not None and high is not None:
        bounds = [f"between {low} and {high}"]
    raise ConfigError(f"--{name} is {value}; it must be {' and '.join(bounds)}")


def listed(text: str, known: Collection[str], *, name: str) -> list[str]:
    """The names in a setting that holds several, separated by commas; at least one."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or not set(names) <= set(known):
        raise ConfigError(f"--{name} is {text!r}; known are {', '.join(known)}")
    return names


def plain_type(hint: Any) -> Any:
    """A type without its None."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [part for part in get_args(hint) if part is not types.NoneType]
    return hint


def convert(value: Any, hint: Any, *, name: str) -> Any:
    """Turn a text of the command line, or a value of YAML or Python, into a setting's type."""
    plain = plain_type(hint)
    optional = plain is not hint
    unset = ("none", "None", "auto") if plain is bool else ("none", "None")
    if value is None or (optional and value in unset):
        if optional:
            return None
        raise ConfigError(f"--{name} is empty; it needs a value")
    if get_origin(plain) is Literal:
        return _choice(value, get_args(plain), name=name)
    if plain is bool:
        text = str(value).lower()
        if text in _TRUE | _FALSE:
            return text in _TRUE
        raise ConfigError(f"--{name} is {value!r}; allowed are true and false")
    if plain in (int, float):
        return _number(value, plain, name=name)
    if get_origin(plain) is dict:
        return _mapping(value, name=name)
    text = _text(value, name=name)
    return _path(text, name=name) if plain is Path else text


def _choice(value: Any, allowed: tuple[Any, ...], *, name: str) -> Any:
    if value not in allowed:
        names = ", ".join(map(str, allowed))
        raise ConfigError(f"--{name} is {value!r}; allowed are {names}")
    return value


def _text(value: Any, *, name: str) -> str:
    if not isinstance(value, str | Path | int | float):
        raise ConfigError(f"--{name} is {value!r}; expected a single value")
    text = str(value)
    if not text:
        # Nearly always a shell variable that is not set; Path("") would be the current folder.
        raise ConfigError(f"--{name} is empty; it needs a value")
    if "\0" in text:
        raise ConfigError(f"--{name} holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"--{name} is {text[:60]!a}, which is not UTF-8; correct it") from error
    return text


def _path(text: str, *, name: str) -> Path:
    try:
        path = Path(text).expanduser()
        path.exists()  # a name that is too long shows here
    except (OSError, RuntimeError) as error:  # RuntimeError: ~somebody without a home
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--{name} is {text[:80]!r}: {reason}") from error
    return path


def _number(value: Any, plain: type[int] | type[float], *, name: str) -> int | float:
    kind = "a whole number" if plain is int else "a number"
    try:
        if isinstance(value, bool):
            raise ValueError
        if plain is int and isinstance(value, float) and value != int(value):
            raise ValueError
        number = plain(value)
        if not math.isfinite(number):  # every comparison with nan is false: no range would stop it
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        shown = repr(value) if len(str(value)) < 60 else f"{str(value)[:60]}..."
        raise ConfigError(f"--{name} is {shown}; it must be {kind}") from error
    if abs(number) > _LARGEST_WHOLE_NUMBER:
        raise ConfigError(f"--{name} is {str(value)[:60]}...; it must be {kind} below 2^63")
    return number


def _mapping(value: Any, *, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"--{name} is {value!r}; expected a JSON object ({error})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"--{name} is {value!r}; expected a JSON object")
    return dict(value)


def _refuse_password(url: str) -> None:
    """Raise `ConfigError` for a URL that holds a password: manifests and messages would show it."""
    from urllib.parse import urlsplit

    try:
        held = urlsplit(url).username is not None
    except ValueError as error:
        raise ConfigError(f"--server_url is not a URL: {error}") from error
    if held:
        raise ConfigError(
            "--server_url holds a user name or a password, which would be written to the manifest; "
            "leave it out: a key is read only from the environment variable OPENAI_API_KEY"
        )
