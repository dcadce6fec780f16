"""What a user can do wrong, as one tree of exceptions.

::

    PromptDistillationError
    ├── ConfigError (ValueError)         a flag, a YAML key or a range
    ├── TaskError (ValueError)           tasks/NAME/task.yaml or prompt.md
    ├── InputError (ValueError)          a file of inputs, labels or training rows
    ├── OutputExistsError (FileExistsError)  refusing to overwrite
    ├── OutputBusyError (RuntimeError)   another process is writing the same output
    ├── OutputWriteError (OSError)       a disk that is full or a folder that cannot be written
    ├── EngineError (RuntimeError)       no such engine here, no GPU, a server that does not answer
    ├── NoLabelsError (RuntimeError)     a teacher that answered none of the inputs
    ├── DivergedError (RuntimeError)     a training loss that is not a finite number
    └── ModelError (ValueError)          a path without a model, an adapter of another base model

Commands catch the base class, print the message as one line and exit with code 2. Every message
names the value received, what is allowed, and what to do.
"""


class PromptDistillationError(Exception):
    """Base of every error that is the user's to fix."""


class ConfigError(PromptDistillationError, ValueError):
    """A flag or a YAML key has a value that is not allowed, or is unknown."""


class TaskError(PromptDistillationError, ValueError):
    """A task folder is incomplete or contradicts itself."""


class InputError(PromptDistillationError, ValueError):
    """A file of inputs, gold labels or training rows cannot be used as it is."""


class OutputExistsError(PromptDistillationError, FileExistsError):
    """An output is already there and was not asked to be replaced."""


class OutputBusyError(PromptDistillationError, RuntimeError):
    """Another process holds the output."""


class OutputWriteError(PromptDistillationError, OSError):
    """An output could not be written."""


class EngineError(PromptDistillationError, RuntimeError):
    """A text engine cannot be had or stopped answering."""


class NoLabelsError(PromptDistillationError, RuntimeError):
    """All inputs were rejected: the dataset is written, and there is nothing in it to train on."""


class DivergedError(PromptDistillationError, RuntimeError):
    """Training stopped: the loss is not a finite number."""


class ModelError(PromptDistillationError, ValueError):
    """A model or adapter cannot be loaded as asked."""
