"""A student behind vLLM's own OpenAI-compatible server: the command, and the running process.

On a GPU an adapter is put on its base model while the server runs, with the flags that
`data.vllm_flags` works out. Where vLLM cannot do that, as everywhere without a GPU, base and
adapter are merged into a folder first.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prompt_distillation.data.files import refuse_unsafe_outputs
from prompt_distillation.data.vllm_flags import lora_flags
from prompt_distillation.engines.base import EngineOptions
from prompt_distillation.engines.vllm_start import (
    live_adapter,
    merge_into,
    merge_to_temporary,
    vllm_environment,
)
from prompt_distillation.errors import EngineError, OutputExistsError
from prompt_distillation.machine import choose_device

STOPPING_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served.

    Attributes:
        name: what clients call it.
        fp8: whether vLLM quantises the weights to 8 bits while it loads them.
        merged_dir: where a merged checkpoint is written, to stay; None: a temporary folder.
    """

    name: str
    host: str
    port: int
    fp8: bool = False
    merged_dir: Path | None = None
    more: Sequence[str] = ()

    @property
    def url(self) -> str:
        """The base URL for clients on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}/v1"


def check_serving(serving: Serving) -> None:
    """See that vLLM is there and the port is free, before minutes of merging.

    Raises:
        EngineError: one of them is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "vLLM is not installed here; run `pip install -e '.[vllm]'` on a machine with NVIDIA "
            "GPUs, or `bash scripts/install.sh` on one without"
        )
    try:
        with socket.socket() as wanted:
            wanted.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wanted.bind((serving.host, serving.port))
    except OSError as error:
        raise EngineError(
            f"cannot listen on {serving.host}, port {serving.port}: {error.strerror or error}; "
            "choose another one with --port"
        ) from error


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: the server stops, and a merged model is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def serve_command(options: EngineOptions, serving: Serving) -> Iterator[tuple[list[str], str]]:
    """The command that serves a model, and a word on how; merges first where that is needed.

    A temporary folder of a merged model is there until the block ends.

    Raises:
        ModelError: the adapter does not fit its base model.
        OutputExistsError: there is something in the folder for the merged model.
    """
    device = choose_device("auto", options.tensor_parallel_size)
    flags = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--host", serving.host, "--port", str(serving.port),
        "--tensor-parallel-size", str(options.tensor_parallel_size),
        "--max-model-len", str(options.max_model_len or "auto"),
        "--gpu-memory-utilization", str(options.gpu_memory_utilization),
        "--dtype", options.dtype, "--seed", str(options.seed),
        # JSON as a student is trained to write it, where a client asks for JSON.
        "--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}',
    ]  # fmt: skip
    if device == "cpu":  # see `vllm_start`
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
    if serving.fp8:
        flags += ["--quantization", "fp8"]
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    with contextlib.ExitStack() as stack:
        model = ["--served-model-name", serving.name]
        how, adapter = "as it is", options.adapter
        if adapter is not None:
            live = None
            if serving.merged_dir is None:
                with vllm_environment(options, device=device):
                    live = live_adapter(adapter, device=device)
            if live is not None:
                how = f"with the adapter {adapter} on top"
                # The base keeps its own name, and the adapter has the student's.
                model = lora_flags(live.shape, name=serving.name, path=str(live.path))
                if (adapter / "tokenizer_config.json").is_file():
                    model += ["--tokenizer", str(live.path)]
            else:
                folder = _merged(options, serving, stack)
                how = f"merged with the adapter {adapter} in {folder}"
                options = replace(options, model=str(folder), revision=None)
        if options.revision is not None:
            flags += ["--revision", options.revision]
        yield [*flags, "--model", options.model, *model, *serving.more], how


def _merged(options: EngineOptions, serving: Serving, stack: contextlib.ExitStack) -> Path:
    """Base and adapter as one checkpoint: in a folder that stays, or in a temporary one."""
    if serving.merged_dir is None:
        return Path(stack.enter_context(merge_to_temporary(options)))
    assert options.adapter is not None
    folder = serving.merged_dir
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(
            f"{folder} is not empty, so nothing is written there; serve what it holds with "
            f"`prompt-distillation serve {folder}`, or choose another --merged_dir"
        )
    read = [options.adapter, *(path for path in [Path(options.model)] if path.exists())]
    refuse_unsafe_outputs([folder], read, is_ours=lambda path: False)
    return merge_into(folder, options)


@contextmanager
def running_server(
    command: Sequence[str], serving: Serving, options: EngineOptions
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the server, wait until it answers, and stop it when the block ends.

    Raises:
        EngineError: it ended before it answered; its own message is on the screen.
    """
    with subprocess.Popen(command, env=_environment(options)) as process:
        try:
            _wait_until_up(serving, process)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=STOPPING_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _environment(options: EngineOptions) -> Mapping[str, str]:
    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    with vllm_environment(options, device=choose_device("auto", options.tensor_parallel_size)):
        environment = dict(os.environ)
    if before is None:
        # A server has requests to read while its model computes: two processes.
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    return environment


def _wait_until_up(serving: Serving, process: "subprocess.Popen[bytes]") -> None:
    url = serving.url.removesuffix("/v1") + "/health"
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise EngineError(
        f"vLLM's server ended with exit code {process.returncode}; its own message is above "
        "(VLLM_LOGGING_LEVEL=INFO shows more)"
    )
