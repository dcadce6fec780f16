"""Weights in 4 bits: while training (QLoRA) and in an export."""
