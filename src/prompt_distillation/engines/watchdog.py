"""Nothing of vLLM outlives this process, however it ends.

vLLM stops its processes when it is shut down in order. After ``kill``, or a crash, they would stay
behind with the model in memory. A small process waits for the end of this one, which closes the
pipe between them whatever happened, and then ends those that are left.
"""

import subprocess
import sys
from collections.abc import Collection

# Without the package: a watchdog has to be small, and to start at once.
SCRIPT = """
import os, signal, sys, time

def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

if sys.stdin.read() != "stopped in order":
    left = [int(pid) for pid in sys.argv[1:]]
    left = [pid for pid in left if send(pid, signal.SIGTERM)]
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [pid for pid in left if send(pid, 0)]
    for pid in left:
        send(pid, signal.SIGKILL)
"""


class Watchdog:
    """Ends processes if this one ends without having stopped them.

    Args:
        pids: of the processes; they end their own children themselves.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._process = subprocess.Popen(
            # Isolated and without site-packages: it starts in some 10 ms.
            [sys.executable, "-I", "-S", "-c", SCRIPT, *map(str, pids)],
            stdin=subprocess.PIPE,
            text=True,
            # A session of its own: Ctrl-C and `kill` of the group are not for it.
            start_new_session=True,
        )

    def release(self) -> None:
        """Say that the processes were stopped in order."""
        self._process.communicate("stopped in order")
