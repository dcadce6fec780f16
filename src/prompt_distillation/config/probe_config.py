"""Settings of the probes: they measure in texts what automatic scores miss."""

from dataclasses import dataclass
from pathlib import Path

from prompt_distillation.config import listed, option
from prompt_distillation.config.compare_config import PairConfig
from prompt_distillation.errors import ConfigError

PROBES = ("character", "pressure", "perplexity", "forgetting")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(PairConfig):
    """Settings of `probe.py` and of `probe`."""

    probes: str = option(",".join(PROBES), "what to measure, separated by commas")
    plain_text_file: Path | None = option(
        None,
        "plain text that has nothing to do with the task, UTF-8, one passage a line, for "
        "forgetting; none: a small text that comes with the package",
    )
    output_file: Path = option(Path("./probes.json"), "the result")
    overwrite: bool = option(False, "replace an earlier result")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "pressure" in self.probe_names and "character" not in self.probe_names:
            raise ConfigError(
                "--probes has pressure without character, whose classifier it needs; add character"
            )

    @property
    def probe_names(self) -> list[str]:
        """What to measure."""
        return listed(self.probes, PROBES, name="probes")
