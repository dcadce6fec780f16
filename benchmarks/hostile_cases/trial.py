"""One hostile case: its folder, the commands it runs, and what must hold after each of them."""

import hashlib
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hostile_cases.launching import COMMANDS, ROOT, Launcher, Order, Running, start_afresh

USER_ERROR = 2
LONGEST_ERROR = 1200
"""Characters of an error line. A longer one quotes what it should name."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
MEMORY_BYTES = 24 * 2**30
"""Address space of a command: a size that is not refused must not take the machine with it."""

Word = str | tuple[str, ...]
"""A word that must be there, or several of which one must be; case does not matter."""


class BrokenPromiseError(AssertionError):
    """A command did what it must not."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that may happen to a user.

    Attributes:
        group: the bullet of the list of promises, e.g. ``tables``.
        name: unique within the group.
        act: does it and raises `BrokenPromiseError` if a promise is broken.
        waits: whether it mostly waits, so that more of its kind may run at the same time.
    """

    group: str
    name: str
    act: Callable[["Trial"], None]
    waits: bool = False


def broken(reason: str) -> BrokenPromiseError:
    """The error to raise, on one line."""
    return BrokenPromiseError(" ".join(reason.split())[:600])


def require(condition: object, reason: str) -> None:
    """Raise `BrokenPromiseError` unless ``condition`` holds."""
    if not condition:
        raise broken(reason)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: the exit code; negative for a signal.
        out: stdout.
        err: stderr.
        error: the line that starts with ``error:``, without that word; empty if there is none.
    """

    code: int
    out: str
    err: str
    error: str

    @property
    def said(self) -> str:
        """Everything it wrote."""
        return f"{self.out}\n{self.err}"

    def refuses(self, *words: Word) -> "Outcome":
        """See that it ended as a user's error whose line holds each of ``words``."""
        require(self.code == USER_ERROR, f"exit code {self.code}, not 2; {self._end()}")
        self._holds(self.error, words, "the error line")
        return self

    def works(self, *words: Word) -> "Outcome":
        """See that it ended well, and said each of ``words`` somewhere."""
        require(self.code == 0, f"exit code {self.code}, not 0; {self._end()}")
        self._holds(self.said, words, "the output")
        return self

    def says(self, *words: Word) -> "Outcome":
        """See that it said each of ``words``, however it ended."""
        self._holds(self.said, words, "the output")
        return self

    def refuses_or_works(self, *words: Word) -> "Outcome":
        """See that it ended well, or as a user's error that holds each of ``words``."""
        return self if self.code == 0 else self.refuses(*words)

    def _holds(self, text: str, words: Iterable[Word], where: str) -> None:
        for word in words:
            choices = (word,) if isinstance(word, str) else word
            if not any(choice.casefold() in text.casefold() for choice in choices):
                raise broken(f"{where} does not hold {' or '.join(choices)!r}; {self._end()}")

    def _end(self) -> str:
        lines = [line for line in self.err.splitlines() if line.strip()] or self.out.splitlines()
        return f"it ended with: {self.error or (lines[-1] if lines else 'nothing')}"


@dataclass
class Trial:
    """The folder of one case and the commands that it runs there.

    Attributes:
        folder: its own, empty at the start, and the commands' current folder.
        things: models and datasets built once, to be copied.
        launcher: starts the commands.
        afresh: whether each command gets an interpreter of its own, as from a shell.
    """

    folder: Path
    things: Any
    launcher: Launcher
    afresh: bool = False
    last_command: str = ""
    last_output: str = ""
    _theirs: dict[Path, str] = field(default_factory=dict)
    _seen: set[Path] = field(default_factory=set)
    _closers: list[Callable[[], None]] = field(default_factory=list)

    CODES: ClassVar[frozenset[int]] = frozenset({0, USER_ERROR})

    # --- the user's files

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the user's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self._mark(path)
        return path

    def link(self, name: str, target: str | Path, *, hard: bool = False) -> Path:
        """Make a link of the user's: symbolic, or a second name for the same file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if hard:
            path.hardlink_to(self.folder / target)
        else:
            path.symlink_to(target)
        self._mark(path)
        return path

    def copy(self, source: Path, name: str, *, ours: bool = False) -> Path:
        """Copy a file or folder; ``ours``: a command wrote it, and may write it again."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, path, symlinks=True)
        else:
            shutil.copy2(source, path)
        for part in (path, *sorted(path.rglob("*"))) if path.is_dir() else (path,):
            self._seen.add(part)
            if not ours:
                self._mark(part)
        return path

    def task(self, name: str = "task", **fields: str) -> Path:
        """Copy the language task; ``yaml`` and ``prompt`` replace its files."""
        folder = self.copy(ROOT / "tasks" / "language", name)
        if "yaml" in fields:
            self.write(f"{name}/task.yaml", fields["yaml"])
        if "prompt" in fields:
            self.write(f"{name}/prompt.md", fields["prompt"])
        return folder

    def give_up(self, path: Path) -> None:
        """From now on ``path`` may change: the case changed it, or asked for it."""
        self._theirs.pop(path, None)

    def _mark(self, path: Path) -> None:
        self._seen.add(path)
        if path.is_symlink() or path.is_file():
            self._theirs[path] = _state(path)

    def users_files(self) -> set[Path]:
        """What the case wrote itself."""
        return set(self._theirs)

    def harmed(self) -> list[str]:
        """The user's files that are not as they were."""
        return [
            f"{path.relative_to(self.folder)} ({'changed' if os.path.lexists(path) else 'gone'})"
            for path, state in self._theirs.items()
            if _state(path) != state
        ]

    # --- commands

    def start(
        self,
        command: str,
        *flags: str | Path,
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        standard_input: bytes = b"",
        terminal: bool = False,
        folder: Path | None = None,
    ) -> Running:
        """Start a command and let it run."""
        order = Order(
            command=(*COMMANDS[command], *map(str, flags)),
            folder=folder or self.folder,
            environment=environment or {},
            limits={"RLIMIT_AS": MEMORY_BYTES, **(limits or {})},
            standard_input=standard_input,
            terminal=terminal,
        )
        name = "python " + " ".join(COMMANDS[command]).replace(f"{ROOT}/", "")
        self.last_command = f"{name} {shlex.join(map(str, flags))}"
        running = start_afresh(order) if self.afresh else self.launcher.fork(order)
        self._closers.append(running.kill_group)
        return running

    def run(
        self,
        command: str,
        *flags: str | Path,
        codes: Iterable[int] = (),
        seconds: float = 90.0,
        **more: Any,
    ) -> Outcome:
        """Run a command to its end, and see that it kept what every command promises.

        Args:
            command: a key of `launching.COMMANDS`.
            flags: its flags.
            codes: exit codes that are allowed beside 0 and 2.
            seconds: it may take.
            more: of `start`.
        """
        running = self.start(command, *flags, **more)
        return self.finish(running, codes=codes, seconds=seconds)

    def finish(
        self, running: Running, *, codes: Iterable[int] = (), seconds: float = 90.0
    ) -> Outcome:
        """Wait for a command's end and see what every command promises.

        Raises:
            BrokenPromiseError: it runs on, shows a traceback, ends with another code, has not
                exactly one line of error where that is its code, or harmed a file of the user's.
        """
        ended = running.wait(seconds)
        if not ended:
            running.kill_group()
            running.wait(10.0)
        out, err = (bytes(part).decode("utf-8", "replace") for part in (running.out, running.err))
        self.last_output = f"{out}\n{err}"
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        outcome = Outcome(
            code=running.code if running.code is not None else -signal.SIGKILL,
            out=out,
            err=err,
            error=errors[-1].removeprefix("error: ") if errors else "",
        )
        if harmed := self.harmed():
            more = f" and {len(harmed) - 3} more" if len(harmed) > 3 else ""
            first = ", ".join(harmed[:3])
            raise broken(f"harmed the user's {first}{more}; exit code {outcome.code}")
        require(ended, f"still running after {seconds:g} s; {outcome._end()}")
        if "Traceback (most recent call last)" in outcome.said:
            raise broken(f"a traceback; {outcome._end()}")
        allowed = self.CODES | set(codes)
        require(outcome.code in allowed, f"exit code {outcome.code}; {outcome._end()}")
        if outcome.code == USER_ERROR:
            _check_error_line(outcome, errors)
        return outcome

    # --- what a case needs beside

    def on_close(self, close: Callable[[], None]) -> None:
        """Call ``close`` when the case is over."""
        self._closers.append(close)

    def close(self) -> None:
        """End what the case left running."""
        for close in reversed(self._closers):
            close()
        self._closers.clear()


def _check_error_line(outcome: Outcome, errors: list[str]) -> None:
    if len(errors) != 1:
        raise broken(f"{len(errors)} lines of error, not one; {outcome._end()}")
    last = [line for line in outcome.err.splitlines() if line.strip()][-1]
    require(last == errors[0], f"the error is not the last line: {last!r} follows {errors[0]!r}")
    require(outcome.error.strip(), "an empty line of error")
    require(len(errors[0]) <= LONGEST_ERROR, f"an error of {len(errors[0])} characters")
    require(not CONTROL.search(errors[0]), f"control characters in the error: {errors[0]!r}")


def _state(path: Path) -> str:
    """What must not change of a file or link: where it leads, or its SHA-256."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "no file"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def opened(trial: Trial) -> Iterator[Trial]:
    """The trial; whatever it started is ended afterwards."""
    try:
        yield trial
    finally:
        trial.close()
