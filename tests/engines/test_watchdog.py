import subprocess
import sys
import textwrap

import psutil

from prompt_distillation.engines.vllm import Watchdog

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]


def test_what_was_stopped_in_order_is_left_alone() -> None:
    with subprocess.Popen(SLEEP) as process:
        Watchdog([process.pid]).release()
        assert process.poll() is None
        process.kill()


def test_what_outlives_a_killed_process_is_ended() -> None:
    script = f"""
        import os, signal, subprocess
        from prompt_distillation.engines.vllm import Watchdog

        child = subprocess.Popen({SLEEP!r})
        watchdog = Watchdog([child.pid])
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    child = int(done.stdout)
    if psutil.pid_exists(child):
        _, alive = psutil.wait_procs([psutil.Process(child)], timeout=30)
        assert not alive
