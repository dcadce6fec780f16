"""Running asynchronous work from ordinary code: a script, a thread, or a notebook.

A notebook runs an event loop of its own, in which no other can be started; there the work gets a
loop in a thread.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end; Ctrl-C and SIGTERM cancel it in order, so that engines are freed."""
    if _loop_is_running_here():
        with BackgroundLoop() as loop:
            return loop.run(work)

    async def cancellable() -> Result:
        task = asyncio.current_task()
        assert task is not None
        # A platform without signal handlers on its loop, or another thread: Ctrl-C alone then.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _loop_is_running_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class BackgroundLoop:
    """An event loop in a thread of its own, for an engine that outlives one call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run ``work`` on the loop and wait for it; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C reaches the thread that waits, not the one that works.
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop and its thread. Idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
