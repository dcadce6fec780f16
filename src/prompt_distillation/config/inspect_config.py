"""Settings of inspecting data, and what would spoil a training run."""

from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.config import InputConfig, Settings, block, option, share
from prompt_distillation.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InspectLimits(Settings):
    """Shares above which the data is not fit for training (exit code 3)."""

    max_unreadable: float = share(0.0, "rows that are no conversation")
    max_empty: float = share(0.0, "rows with an empty answer")
    max_duplicates: float = share(0.1, "inputs that repeat an earlier one")
    max_near_duplicates: float = share(0.3, "inputs that nearly repeat an earlier one")
    max_contradictions: float = share(0.01, "rows whose input appears again with another answer")
    max_held_out_seen: float = share(
        0.05, "held-out inputs that a training input repeats or nearly repeats"
    )
    max_rejected: float = share(0.2, "inputs that got no answer")
    max_cut: float = share(0.1, "inputs whose last answer was cut off by length")
    max_refused: float = share(0.05, "answers that begin as a refusal does, in English")
    max_leaks: float = share(
        0.01, "answers with marks of reasoning or of turns, or a piece of the prompt"
    )
    max_secrets: float = share(0.0, "rows with what looks like a key, a token or a private key")
    max_too_long: float = share(0.02, "training rows longer than --max_length (with --model_name)")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Settings):
    """Settings of `inspect_data.py` and of `inspect_data`."""

    input_file: Path | None = option(None, "inputs, in any format of create_data.py")
    dataset: Path | None = option(
        None, "chat rows, NAME.jsonl; what create_data.py wrote beside it is inspected too"
    )
    task: Path | None = option(None, "task folder, whose prompt must not appear in the answers")
    output_file: Path = option(
        Path("data/inspection.html"), "the page to write; the same as JSON goes beside it"
    )
    model_name: str | None = option(
        None, "model whose tokenizer counts lengths; none: lengths are counted in words"
    )
    max_length: int = option(2048, "longest row in tokens that training takes", low=8)
    near_duplicates: float = option(
        0.85, "similarity from which two inputs are near-duplicates", above=0, high=1
    )
    leak_words: int = option(
        12, "words in a row that an answer and the prompt must share to be a leak", low=3, high=200
    )
    num_examples: int = option(10, "rows that are shown, drawn at random", low=0, high=1000)
    seed: int = option(0, "seed of that draw", low=0)
    fields: InputConfig = block(InputConfig, omit=("label_field", "group_field", "max_samples"))
    limits: InspectLimits = block(InspectLimits)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_file is None and self.dataset is None:
            raise ConfigError("there is nothing to inspect; pass --input_file, --dataset, or both")
        if self.output_file.suffix != ".html":
            raise ConfigError(f"--output_file is {str(self.output_file)!r}; it must end in .html")
