"""A result as people see it: terminal, plots, HTML, W&B."""
