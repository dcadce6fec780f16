"""The parts of ``tools/build_example_models.py``: texts, tokenizer, training, model cards."""
