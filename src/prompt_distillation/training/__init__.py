"""Dataset -> LoRA adapter: the second step."""
