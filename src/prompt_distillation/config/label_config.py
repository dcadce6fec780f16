"""Settings of labelling: what is asked of which teacher, and where the dataset goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.config import (
    Duplicates,
    EngineConfig,
    InputConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    TokenPriceConfig,
    block,
    option,
    share,
)
from prompt_distillation.errors import ConfigError

DEFAULT_TEACHER = "Qwen/Qwen3-30B-A3B-Thinking-2507"
DEFAULT_MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class VoteConfig(Settings):
    """How completions become an answer."""

    thinking: bool = option(True, "the model reasons first; without </think> there is no answer")
    max_retries: int = option(3, "further attempts while no answer can be read", low=0, high=20)
    num_votes: int = option(
        1, "answers per input, of which the majority counts; stops once the majority cannot change",
        low=1, high=1001,
    )  # fmt: skip
    min_agreement: float = share(
        0.0, "share of the votes that the answer needs; inputs below it are rejected"
    )


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Settings):
    """Settings of `create_data.py` and of `label`."""

    task: Path = option(Path("tasks/language"), "task folder, with task.yaml and the prompt")
    input_file: Path = option(
        Path("example-data/multilingual.txt"),
        "inputs: txt (one per line), jsonl, csv, tsv, parquet, or a folder written by `datasets`",
    )
    output_file: Path = option(
        Path("data/prompt_distillation_lang.jsonl"),
        "the dataset to write; its other files go beside it",
    )
    model: ModelConfig = block(ModelConfig, model_name=DEFAULT_TEACHER)
    sampling: SamplingConfig = block(
        SamplingConfig, temperature=0.15, max_tokens=DEFAULT_MAX_TOKENS
    )
    decoding: Literal["free", "constrained"] = option(
        "free",
        "free: the teacher writes anything; constrained: after its reasoning it can write only a "
        "label, or JSON by the schema",
    )
    votes: VoteConfig = block(VoteConfig)
    top_logprobs: int = option(
        0, "log-probabilities to keep of each token of an answer, for --method soft (20); 0: none",
        low=0, high=20,
    )  # fmt: skip
    engine: EngineConfig = block(EngineConfig)
    inputs: InputConfig = block(InputConfig)
    duplicates: Duplicates = option(
        "normalised",
        "texts that count as the same input and are labelled once; normalised: those that differ "
        "only in case and white space",
    )
    held_out: float = option(0.1, "share of the groups kept out of training", low=0, high=0.99)
    shard_index: int = option(0, "the shard that this process labels, counted from 0", low=0)
    num_shards: int = option(1, "number of shards that the inputs are split into", low=1, high=4096)
    merge: bool = option(
        False, "write the dataset from the journals of all shards, without asking the teacher"
    )
    overwrite: bool = option(
        False, "replace a finished dataset made with other settings; the journal is kept and used"
    )
    dry_run: bool = option(
        False, "show three prompts and estimate tokens, GPU hours and cost; write no dataset"
    )
    probe_samples: int = option(
        32, "inputs that a dry run labels for its estimate, kept in the journal; 0: none",
        low=0,
    )  # fmt: skip
    price_per_gpu_hour: float | None = option(None, "price of one GPU hour, for --dry_run", low=0)
    prices: TokenPriceConfig = block(TokenPriceConfig, omit=("price_per_million_cached_tokens",))
    progress_seconds: float = option(
        10.0, "seconds between lines of progress, if the output is not a terminal", low=0.1
    )

    @property
    def max_tokens(self) -> int:
        """Most new tokens of a first attempt."""
        return self.sampling.max_tokens or DEFAULT_MAX_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_index >= self.num_shards:
            raise ConfigError(
                f"--shard_index is {self.shard_index}; it must be between 0 and "
                f"{self.num_shards - 1} (--num_shards {self.num_shards})"
            )
        if self.votes.num_votes > 1 and self.sampling.temperature == 0:
            raise ConfigError(
                f"--num_votes is {self.votes.num_votes} at --temperature 0: all votes would be the "
                "same; set a temperature above 0, e.g. 0.7"
            )
