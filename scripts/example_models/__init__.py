"""The parts of ``scripts/build_example_models.py``: texts, tokenizer, training, model cards."""
