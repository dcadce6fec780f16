"""Label inputs with the teacher: the command, its flags, and how they become a job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.cli.options import (
    check_range,
    check_server_url,
    option,
    parse_options,
)
from prompt_distillation.engines.base import EngineKind
from prompt_distillation.errors import ConfigError
from prompt_distillation.labelling.keys import Duplicates

DESCRIPTION = """\
Label inputs with a thinking teacher under the task's prompt, and write a dataset to train a student
on. Every completion is in a journal before it is counted: a run that was stopped goes on where it
was, by the same command. Writes NAME.jsonl, NAME.heldout.jsonl, NAME.records.jsonl,
NAME.rejects.jsonl and NAME.manifest.json."""


@dataclass(frozen=True, kw_only=True)
class CreateDataConfig:
    """All flags of the command; see their help."""

    task: Path = option(Path("tasks/language"), "folder of the task: task.yaml and its prompt")
    input_file: Path = option(
        Path("example-data/multilingual.txt"),
        "inputs: txt (one a line), jsonl, csv, tsv, parquet, or a folder of `datasets`",
    )
    output_file: Path = option(
        Path("data/prompt_distillation_lang.jsonl"), "the dataset; its other files stand beside it"
    )
    model_name: str = option(
        "Qwen/Qwen3-30B-A3B-Thinking-2507", "the teacher: a hub name, a folder, or a served name"
    )
    revision: str | None = option(None, "branch, tag or commit of the teacher on the hub")
    engine: EngineKind = option("auto", "who runs the teacher; auto: vllm where it can run")
    server_url: str | None = option(
        None, "base URL of an OpenAI-compatible server, ending in /v1 (--engine server)"
    )
    request_timeout_seconds: float = option(600.0, "of one request to a server, in seconds")
    temperature: float = option(0.15, "of a first attempt; each retry adds 0.25, up to 1")
    top_p: float = option(1.0, "nucleus mass, in (0, 1]")
    max_tokens: int = option(
        4096, "most new tokens of an answer, reasoning included; a cut answer's retry gets twice"
    )
    max_thinking_tokens: int | None = option(
        None, "tokens of reasoning after which the teacher must answer, where the engine can"
    )
    thinking: bool = option(True, "the teacher reasons first: a text without </think> is no answer")
    max_retries: int = option(3, "further attempts while no answer can be read")
    num_votes: int = option(
        1, "completions an input; the majority labels it, and voting stops once that is settled"
    )
    min_agreement: float = option(
        0.0, "share of the votes the label needs; inputs below it are rejected"
    )
    tensor_parallel_size: int = option(1, "GPUs that share one copy of the teacher")
    ray_address: str | None = option(
        None, "label on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT; none: here alone"
    )
    ray_workers: int | None = option(
        None, "teachers on the cluster; none: as its GPUs allow, without GPUs one a machine"
    )
    max_model_len: int | None = option(None, "longest prompt + answer in tokens; none: the model's")
    gpu_memory_utilization: float = option(0.9, "share of each GPU's memory vLLM may take")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option("auto", "of the weights")
    max_concurrency: int | None = option(None, "most requests in flight; none: the engine's own")
    trust_remote_code: bool = option(False, "run Python code that ships with the model")
    text_field: str = option("text", "field of the text in jsonl, csv and parquet rows")
    label_field: str = option("label", "field of the gold label, where there is one")
    group_field: str = option("group", "field of the group; a split never cuts one")
    duplicates: Duplicates = option(
        "normalised", "label once: texts that differ in case and spaces only, or exact copies"
    )
    max_samples: int | None = option(None, "take only the first N inputs; none: all")
    held_out: float = option(0.1, "share of the groups kept out of training, in [0, 1)")
    seed: int = option(0, "of sampling and of the held-out choice")
    shard_index: int = option(0, "which shard this process labels, from 0")
    num_shards: int = option(1, "into how many shards the inputs are cut")
    merge: bool = option(False, "write the dataset from the journals of all shards; no teacher")
    overwrite: bool = option(
        False, "replace a finished dataset of other settings; the journal is kept and used"
    )
    dry_run: bool = option(
        False, "show three prompts and estimate tokens, GPU-hours and money; write no dataset"
    )
    probe_samples: int = option(
        32, "inputs a dry run labels for its estimate, kept in the journal; 0: load no teacher"
    )
    price_per_gpu_hour: float | None = option(None, "of one GPU, for the estimate")
    price_per_million_input_tokens: float | None = option(None, "of a server, for the estimate")
    price_per_million_output_tokens: float | None = option(None, "of a server, for the estimate")
    progress_seconds: float = option(10.0, "between lines of progress, where there is no terminal")

    def __post_init__(self) -> None:
        """Check ranges, and flags that contradict each other."""
        check_range("temperature", self.temperature, low=0, high=2)
        check_range("top_p", self.top_p, low=1e-6, high=1)
        for name in ("max_tokens", "num_votes", "num_shards", "tensor_parallel_size"):
            check_range(name, vars(self)[name], low=1)
        for name in ("max_thinking_tokens", "max_model_len", "max_concurrency", "max_samples"):
            check_range(name, vars(self)[name], low=1)
        check_range("ray_workers", self.ray_workers, low=1)
        check_range("max_retries", self.max_retries, low=0, high=20)
        check_range("min_agreement", self.min_agreement, low=0, high=1)
        check_range("gpu_memory_utilization", self.gpu_memory_utilization, low=0.01, high=1)
        check_range("held_out", self.held_out, low=0, high=0.99)
        check_range("shard_index", self.shard_index, low=0, high=self.num_shards - 1)
        check_range("probe_samples", self.probe_samples, low=0)
        for name in ("gpu_hour", "million_input_tokens", "million_output_tokens"):
            check_range(f"price_per_{name}", vars(self)[f"price_per_{name}"], low=0)
        check_range("progress_seconds", self.progress_seconds, low=0.1)
        check_range("request_timeout_seconds", self.request_timeout_seconds, low=0.1)
        if self.num_votes > 1 and self.temperature == 0:
            raise ConfigError(
                f"--num_votes is {self.num_votes} at --temperature 0: all votes would be the same; "
                "set a temperature above 0, e.g. 0.7"
            )
        check_server_url(self.server_url)
        tokens = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if (tokens[0] is None) is not (tokens[1] is None):
            raise ConfigError(
                "--price_per_million_input_tokens and --price_per_million_output_tokens belong "
                "together; pass both or neither"
            )
        if self.engine == "server" and not self.server_url and not self.merge:
            raise ConfigError("--engine server needs --server_url, e.g. http://localhost:8000/v1")
        if self.engine == "server" and self.ray_address:
            raise ConfigError(
                "--ray_address is for engines that load the teacher; leave it out with --engine "
                "server"
            )
        if self.ray_workers and not self.ray_address:
            raise ConfigError(
                f"--ray_workers is {self.ray_workers} without a cluster; pass --ray_address too, "
                "e.g. local"
            )


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(CreateDataConfig, argv, description=DESCRIPTION)
    # Only now: --help must not wait for rich, orjson and what they bring.
    from prompt_distillation.cli.labelling_modes import run_mode

    run_mode(config)
    return None
