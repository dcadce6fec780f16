"""`train` in a process of its own, which SIGKILL ends after a step.

python killed_training.py STEP FLAG...
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from prompt_distillation.cli.train import main
from prompt_distillation.training import loss_log


def train_until_killed(flags: Sequence[str], *, step: int) -> None:
    """Train with ``flags`` until the process is killed at the end of ``step``."""
    command = [sys.executable, __file__, str(step), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def kill_at(step: int) -> None:
    """Have the training of this process end itself as `kill -9` would end it."""

    class LastStep(loss_log.LossFile):
        def on_step_end(self, args, state, control, **unused):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    loss_log.LossFile = LastStep


if __name__ == "__main__":
    kill_at(int(sys.argv[1]))
    main(sys.argv[2:])
