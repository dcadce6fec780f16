"""Distil a thinking model under a long prompt into a non-thinking model with no prompt."""

__version__ = "0.1.0"
