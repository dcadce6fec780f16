"""Hostile cases against the real commands: what `benchmarks/robustness.py` runs."""

from hostile_cases import (
    files_not_ours,
    interruptions,
    odd_places,
    outputs_over_inputs,
    reading_inputs,
    reading_yaml,
    server_trouble,
    text_is_data,
    training_faults,
)
from hostile_cases.trial import Case

MODULES = (
    files_not_ours, outputs_over_inputs, text_is_data, reading_inputs, reading_yaml, odd_places,
    training_faults, interruptions, server_trouble,
)  # fmt: skip

ALL_CASES: tuple[Case, ...] = tuple(case for module in MODULES for case in module.cases())
