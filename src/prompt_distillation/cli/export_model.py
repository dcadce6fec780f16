"""`export`: merge a student's adapter into a checkpoint, prove that it is in there, describe it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prompt_distillation.cli.options import parse_options
from prompt_distillation.training.export import ExportConfig, export

if TYPE_CHECKING:
    from prompt_distillation.training.lora.merge_check import MergeCheck

DESCRIPTION = """\
Merge an adapter, experts included, into a checkpoint that vLLM and transformers load, with a model
card. Before the folder gets its final name it is tested: the answers of --rows_file are scored by
the base model, base and adapter, the merged checkpoint, and the merged checkpoint in vLLM if vLLM
runs here. A merge that lost part of the adapter fails with exit code 2 and leaves nothing behind.

--quantise w4a16 also converts linear layers and experts to 4 bits with one scale per group
(compressed-tensors; embeddings, router and lm_head stay as they are), and tests that one too.
"""


def main(argv: Sequence[str]) -> int | None:
    """Run the command."""
    config = parse_options(ExportConfig, argv, description=DESCRIPTION)
    result = export(config, on_checks=_show)
    if result.same_answers is not None:
        same = f"{result.same_answers:.1%}"
        sys.stdout.write(f"merged and quantised give the same answer to {same} of the inputs\n")
    where = "serve it on a GPU with" if result.needs_gpu else "serve it with"
    sys.stdout.write(f"exported to {result.output_dir}; {where}: vllm serve {result.output_dir}\n")
    return None


def _show(checks: Sequence["MergeCheck"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Does the adapter have its effect? Mean difference of log-probabilities, in nats"
    )
    for column in ("one", "other", "should", "difference", "limit", ""):
        table.add_column(column)
    for pair in checks:
        table.add_row(
            pair.first, pair.second, pair.expected,
            f"{pair.difference:.4f}", f"{pair.limit:.4f}", "ok" if pair.passes else "FAILS",
        )  # fmt: skip
    Console().print(table)
