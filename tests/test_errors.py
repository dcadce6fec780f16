import pytest

from prompt_distillation import errors


@pytest.mark.parametrize(
    ("error", "standard"),
    [
        (errors.ConfigError, ValueError),
        (errors.TaskError, ValueError),
        (errors.InputError, ValueError),
        (errors.OutputExistsError, FileExistsError),
        (errors.OutputBusyError, RuntimeError),
        (errors.OutputWriteError, OSError),
        (errors.EngineError, RuntimeError),
        (errors.NoLabelsError, RuntimeError),
        (errors.ModelError, ValueError),
    ],
)
def test_each_error_is_ours_and_a_standard_one(error, standard):
    assert issubclass(error, errors.PromptDistillationError)
    assert issubclass(error, standard)


def test_the_docstring_draws_the_whole_tree():
    # By `__subclasses__` of this module only: engines add a finer error below EngineError.
    direct = [
        error
        for error in errors.PromptDistillationError.__subclasses__()
        if error.__module__ == errors.__name__
    ]
    assert direct
    for error in direct:
        standard = error.__bases__[1].__name__
        assert f"{error.__name__} ({standard})" in errors.__doc__
