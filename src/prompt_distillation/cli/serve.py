"""`prompt-distillation serve`: a student behind vLLM's OpenAI-compatible server."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.cli.options import parse_options_with_extra
from prompt_distillation.config import EngineConfig, ModelConfig, Settings, block, option
from prompt_distillation.config.evaluate_config import DEFAULT_STUDENT
from prompt_distillation.errors import ConfigError

DESCRIPTION = """Serve a student with vLLM's OpenAI-compatible server, with the flags that it needs.

  prompt-distillation serve models/lang                   an adapter, or a full model
  prompt-distillation serve models/lang --quantise fp8    8-bit weights, on a GPU
  prompt-distillation serve models/lang --max-num-seqs 64 any other flag goes to vLLM

On a GPU an adapter is put on its base model while the server runs. Without a GPU, or where vLLM
cannot apply it, base and adapter are merged first, in a temporary folder or in --merged_dir.
Ctrl-C stops the server."""

UNUSED = ("engine", "server_url", "request_timeout_seconds", "max_concurrency", "ray_address",
          "ray_workers")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Options of `serve`."""

    model: ModelConfig = block(
        ModelConfig,
        rename={"model_name": "model_path"},
        omit=("chat_template_kwargs", "chat_template_path"),
        model_name=DEFAULT_STUDENT,
    )
    served_name: str | None = option(
        None, "what clients call the model; none: the name of its folder"
    )
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: every one of this machine")
    port: int = option(8000, "port to listen on", low=1, high=65_535)
    quantise: Literal["none", "fp8"] = option(
        "none", "fp8: vLLM quantises the weights to 8 bits while it loads them (GPUs)"
    )
    merged_dir: Path | None = option(
        None, "merge the adapter into this new folder, which stays, and serve that"
    )
    engine: EngineConfig = block(EngineConfig, omit=UNUSED)


def main(argv: Sequence[str]) -> int | None:
    """Serve as ``argv`` says, until Ctrl-C."""
    if argv and not argv[0].startswith("-"):
        argv = ["--model_path", *argv]
    config, extra = parse_options_with_extra(ServeConfig, argv, description=DESCRIPTION)
    from prompt_distillation.engines import engine_options
    from prompt_distillation.engines.vllm_serve import (
        Serving,
        check_serving,
        running_server,
        serve_command,
        stopped_in_order,
    )

    options = engine_options(config.model, config.engine)
    serving = Serving(
        name=config.served_name or Path(config.model.model_name).resolve().name,
        host=config.host,
        port=config.port,
        fp8=config.quantise == "fp8",
        merged_dir=config.merged_dir,
        more=_flags_for_vllm(extra),
    )
    check_serving(serving)
    with stopped_in_order(), serve_command(options, serving) as (command, how):
        sys.stdout.write(f"{options.model}, {how}:\n{shlex.join(command)}\n")
        sys.stdout.flush()
        with running_server(command, serving, options) as process:
            sys.stdout.write(_how_to_ask(serving.url, serving.name))
            sys.stdout.flush()
            return process.wait()


def _flags_for_vllm(extra: dict[str, object]) -> list[str]:
    flags = []
    for name, value in extra.items():
        if isinstance(value, dict | list):
            value = json.dumps(value)
        elif value is False or value is None:
            raise ConfigError(f"{name} is {value}; leave it out, or write vLLM's own --no-{name}")
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return flags


def _how_to_ask(url: str, name: str) -> str:
    """A line for the shell and one for Python that ask the served model."""
    question = {"role": "user", "content": "Wo ist der Bahnhof?"}
    body = {"model": name, "messages": [question], "temperature": 0}
    curl = ["curl", "-s", f"{url}/chat/completions", "-H", "Content-Type: application/json"]
    # In double quotes, also for Python: the shell then needs only the single ones around it.
    code = (
        "from openai import OpenAI; "
        f'client = OpenAI(base_url={json.dumps(url)}, api_key="none"); '
        f"print(client.chat.completions.create(**{json.dumps(body)}).choices[0].message.content)"
    )
    return (
        f"\nServing {name} at {url}; Ctrl-C stops it. Ask it without the prompt:\n\n"
        f"{shlex.join([*curl, '-d', json.dumps(body)])}\n\n{shlex.join(['python', '-c', code])}\n"
    )
