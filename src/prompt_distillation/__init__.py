"""Distil a thinking model under a long prompt into a non-thinking model with no prompt.

>>> import prompt_distillation as pd
>>> dataset = pd.label(task="tasks/language", input_file="example-data/multilingual.txt",
...                    output_file="data/lang.jsonl")  # doctest: +SKIP
>>> run = pd.train(dataset, output_dir="models/lang")  # doctest: +SKIP
>>> result = pd.evaluate(run, task="tasks/language",
...                      test_file="example-data/multilingual.txt")  # doctest: +SKIP
>>> pd.Student(run).answer("Wo ist der Bahnhof?")  # doctest: +SKIP
'de'

Every function takes the settings of its command as keyword arguments, by the same names.
"""

from prompt_distillation.api import (
    compare,
    evaluate,
    generate_inputs,
    improve,
    inspect_data,
    judge,
    label,
    load_task,
    probe,
    train,
)
from prompt_distillation.errors import PromptDistillationError
from prompt_distillation.student import Student

__version__ = "0.1.0"

__all__ = [
    "PromptDistillationError",
    "Student",
    "compare",
    "evaluate",
    "generate_inputs",
    "improve",
    "inspect_data",
    "judge",
    "label",
    "load_task",
    "probe",
    "train",
]
