"""Hostile cases against the real commands: what `benchmarks/robustness.py` runs."""

from hostile_cases import files_not_ours, outputs_over_inputs
from hostile_cases.trial import Case

MODULES = (files_not_ours, outputs_over_inputs)

ALL_CASES: tuple[Case, ...] = tuple(case for module in MODULES for case in module.cases())
