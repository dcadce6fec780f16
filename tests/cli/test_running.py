import logging
import os
import subprocess
import sys

import pytest

from prompt_distillation.cli.running import run_command
from prompt_distillation.errors import EngineError


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def fail_with(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_command_that_returns(returned, code):
    assert run_command(lambda argv: returned, []) == code


def test_the_command_gets_its_arguments():
    seen = []
    run_command(seen.extend, ["--a", "b"])
    assert seen == ["--a", "b"]


def test_a_users_error_is_one_line_and_code_2(capsys):
    assert (
        run_command(fail_with(EngineError("no GPU here;\n  use --engine  transformers")), []) == 2
    )
    assert capsys.readouterr().err == "error: no GPU here; use --engine transformers\n"


def test_ctrl_c_is_code_130(capsys):
    assert run_command(fail_with(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_command_that_goes_on_says_so_after_ctrl_c(capsys):
    assert run_command(fail_with(KeyboardInterrupt()), [], goes_on=True) == 130
    assert "run the same command again to continue" in capsys.readouterr().err


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(fail_with(ZeroDivisionError()), [])


def test_a_broken_pipe_that_is_not_stdout_is_not_hidden():
    with pytest.raises(BrokenPipeError):
        run_command(fail_with(BrokenPipeError()), [])


PROGRAM = """
import logging, sys
from prompt_distillation.cli.running import run_command
def command(argv):
    logging.getLogger("a").info("kept [bold]%s[/]", "x" * 120)
    logging.getLogger("a").debug("not shown")
    logging.getLogger("httpx").info("not shown")
    logging.getLogger("httpx2").info("not shown")
    for n in range(100_000):
        print("line", n)
sys.exit(run_command(command, sys.argv[1:]))
"""


def run_program(**options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], text=True, check=False, stderr=subprocess.PIPE, **options
    )


def test_in_a_pipe_a_log_record_is_one_plain_line():
    done = run_program(stdout=subprocess.DEVNULL)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"INFO kept [bold]{'x' * 120}[/]")


def test_a_reader_that_leaves_ends_the_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = run_program(stdout=writing)
    os.close(writing)
    assert done.returncode == 141
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_log_level_that_does_not_exist():
    done = run_program(stdout=subprocess.DEVNULL, env=os.environ | {"LOGLEVEL": "chatty"})
    assert done.returncode == 2
    assert done.stderr == (
        "error: the environment's LOGLEVEL is 'CHATTY'; try INFO, DEBUG or WARNING\n"
    )
