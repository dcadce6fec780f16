import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from prompt_distillation.cli.options import parse_options, parse_options_with_extra
from prompt_distillation.config import Settings, block, build_config, check_range, flat, option
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExampleConfig(Settings):
    """Every kind of field there is."""

    steps: int = option(10, "number of steps", low=1)
    rate: float = option(2e-4, "learning rate")
    share: float | None = option(None, "share kept out, 100% at most", low=0, high=1)
    engine: Literal["auto", "vllm"] = option("auto", "who writes")
    use_lora: bool = option(True, "train an adapter")
    packing: bool | None = option(None, "pack rows; none lets the data decide")
    name: str = option("run", "name of the run")
    folder: Path = option(Path("./data"), "where the output goes")
    gold: Path | None = option(None, "gold labels")


@dataclass(frozen=True, kw_only=True)
class Sampler(Settings):
    """A block."""

    temperature: float = option(0.0, "temperature", low=0, high=2)
    arguments: dict[str, Any] | None = option(None, "more")
    hidden: int = option(3, "what one command has no use for")


@dataclass(frozen=True, kw_only=True)
class TwoSamplers(Settings):
    """One block twice."""

    student: Sampler = block(Sampler, omit=("hidden",))
    teacher: Sampler = block(
        Sampler, prefix="teacher_", rename={"arguments": "more"}, temperature=0.5
    )


def parse(*argv):
    return parse_options(ExampleConfig, argv, description="Try it.")


def parse_file(tmp_path, text, *argv):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return parse("--config", str(path), *argv)


def help_of():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    return out.getvalue()


def test_without_flags_everything_is_its_default():
    assert parse() == ExampleConfig()


def test_flags_are_typed():
    config = parse(
        "--steps", "3", "--rate=1e-5", "--share", "0.5", "--engine", "vllm", "--name", "a b",
        "--folder", "out", "--gold=g.txt",
    )  # fmt: skip
    assert config == ExampleConfig(
        steps=3, rate=1e-5, share=0.5, engine="vllm", name="a b", folder=Path("out"),
        gold=Path("g.txt"),
    )  # fmt: skip
    assert isinstance(config.folder, Path)


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--use_lora"], True),
        (["--use_lora", "false"], False),
        (["--use_lora=False"], False),
        (["--use_lora", "no"], False),
        (["--use_lora", "0"], False),
        (["--use_lora", "TRUE"], True),
        (["--no_use_lora"], False),
        (["--no_use_lora", "--use_lora"], True),
        (["--use_lora", "--steps", "3"], True),
    ],
)
def test_forms_of_a_truth_value(argv, value):
    assert parse(*argv).use_lora is value


def test_none_is_said_by_name_where_it_is_allowed():
    assert parse("--share", "none", "--packing", "none", "--gold", "none") == ExampleConfig()
    assert parse("--packing").packing is True
    assert parse("--name", "none").name == "none"


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert parse("--folder=~/out").folder == Path("/somewhere/out")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "many"], "--steps is 'many'; it must be a whole number"),
        (["--steps", "2.5"], "--steps is '2.5'; it must be a whole number"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--share", "1.5"], "--share is 1.5; it must be between 0 and 1"),
        (["--share", "nan"], "--share is 'nan'; it must be a number"),
        (["--rate", "inf"], "--rate is 'inf'; it must be a number"),
        (["--engine", "tpu"], "--engine is 'tpu'; allowed are auto, vllm"),
        (["--use_lora", "maybe"], "--use_lora is 'maybe'; allowed are true and false"),
        (["--folder", ""], "--folder is empty; it needs a value"),
        (["--name="], "--name is empty; it needs a value"),
        (["--steps"], "argument --steps: expected one argument (see --help)"),
        (["--step", "3"], "unknown flag or key 'step'; did you mean 'steps'?"),
        (["--engin=vllm"], "unknown flag or key 'engin'; did you mean 'engine'?"),
        (["--use-lora"], "did you mean 'use_lora'?"),
        (["--zzz"], "unknown flag or key 'zzz'; see --help for the list"),
        (["stray"], "unexpected argument 'stray'; every value belongs to a --flag"),
        (["--steps", "3", "stray"], "unexpected argument 'stray'"),
        (["--config", "absent.yaml"], "no such --config file: absent.yaml"),
        (["--config", "."], "no such --config file: ."),
    ],
)
def test_what_is_wrong_with_a_flag(argv, message):
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value)


def test_a_file_gives_the_same_names_and_the_command_line_wins(tmp_path):
    text = "steps: 5\nrate: 1e-5\nengine: vllm\nuse_lora: false\nfolder: out\nshare: null\n"
    config = parse_file(tmp_path, text, "--steps", "7", "--use_lora")
    assert config == ExampleConfig(
        steps=7, rate=1e-5, engine="vllm", use_lora=True, folder=Path("out")
    )


def test_an_empty_file_changes_nothing(tmp_path):
    assert parse_file(tmp_path, "# nothing yet\n") == ExampleConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "unknown flag or key 'stepz'; did you mean 'steps'?"),
        ("steps: 2.5", "--steps is 2.5; it must be a whole number"),
        ("steps: true", "--steps is True; it must be a whole number"),
        ("steps: [1, 2]", "it must be a whole number"),
        ("rate: .nan", "it must be a number"),
        ("steps: null", "--steps is empty; it needs a value"),
        ("name: {a: 1}", "expected a single value"),
        ("use_lora: 2", "allowed are true and false"),
        ("steps: 0", "it must be at least 1"),
        ("- steps", "expected a mapping of names to values, got a list"),
        ("steps: [", "not valid YAML"),
        ("steps: 1\nsteps: 2", "the key 'steps' appears twice, again in line 2"),
        ("name: 2024-13-45", "not valid YAML"),
        ("steps: " + "1" * 5000, "not valid YAML"),
        (f"steps: {10**30}", "a whole number below 2^63"),
        ("on: 3", "every key must be a text, got [True]"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, message, monkeypatch):
    # As a library that vLLM imports does it, for every safe loader of the process.
    constructors = yaml.SafeLoader.yaml_constructors
    monkeypatch.setitem(
        constructors, "tag:yaml.org,2002:timestamp", constructors["tag:yaml.org,2002:str"]
    )
    with pytest.raises(ConfigError) as caught:
        parse_file(tmp_path, text)
    assert message in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"name: Gr\xfc\xdfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse("--config", str(path))


def test_what_the_dataclass_does_not_know_is_handed_back(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 5\nweight_decay: 0.1\nbf16: true\nlogging_steps: 2\n")
    config, extra = parse_options_with_extra(
        ExampleConfig,
        ["--config", str(path), "--logging_steps", "-1", "--optim=adamw", "--tf32", "--a", "b c"],
        description="",
    )
    assert config.steps == 5
    assert extra == {
        "weight_decay": 0.1, "bf16": True, "logging_steps": "-1", "optim": "adamw", "tf32": True,
        "a": "b c",
    }  # fmt: skip


def test_help_shows_every_flag_with_its_default_once():
    text = " ".join(help_of().split())
    for wanted in (
        "number of steps (default: 10)",
        "learning rate (default: 0.0002)",
        "100% at most (default: none)",
        "--engine auto|vllm who writes (default: auto)",
        "train an adapter (default: true)",
        "let",
        "where the output goes (default: data)",
        "--config FILE",
    ):
        assert wanted in text
    assert text.count("(default:") == 9


def test_a_resolved_configuration_is_json():
    values = flat(ExampleConfig())
    assert values["folder"] == "data"
    assert values["gold"] is None
    assert values["rate"] == 2e-4


def test_ranges():
    check_range("x", None, low=1)
    check_range("x", 1, low=1, high=1)
    with pytest.raises(ConfigError, match="--x is 2; it must be between 0 and 1"):
        check_range("x", 2, low=0, high=1)


def test_a_block_has_flat_names_and_its_own_defaults():
    config = parse_options(
        TwoSamplers, ["--temperature", "1", "--more", '{"thinking": false}'], description=""
    )
    assert (config.student.temperature, config.teacher.temperature) == (1.0, 0.5)
    assert config.teacher.arguments == {"thinking": False}
    assert flat(config) == {
        "temperature": 1.0, "arguments": None, "teacher_temperature": 0.5,
        "more": {"thinking": False}, "teacher_hidden": 3,
    }  # fmt: skip
    assert build_config(TwoSamplers, flat(config)) == config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher_temperature", "3"], "--teacher_temperature is 3.0; it must be between"),
        (["--hidden", "3"], "unknown flag or key 'hidden'"),
        (["--more", "{"], "--more is '{'; expected a JSON object"),
    ],
)
def test_what_is_wrong_with_a_block(argv, message):
    with pytest.raises(ConfigError) as caught:
        parse_options(TwoSamplers, argv, description="")
    assert message in str(caught.value)


def test_ranges_hold_for_a_configuration_made_in_python():
    with pytest.raises(ConfigError, match="--temperature is 3; it must be between 0 and 2"):
        TwoSamplers(student=Sampler(temperature=3))
