"""Every hostile case against the real commands: what was tried, what held, what did not.

    python benchmarks/robustness.py                         # all of it
    python benchmarks/robustness.py --only tables yaml      # some groups
    python benchmarks/robustness.py --only yaml/merge       # cases whose name starts like this
    python benchmarks/robustness.py --list                  # the names
    python benchmarks/robustness.py --output_file robustness.json --keep_folders

A case stands in a folder of its own, runs commands there as a user would, and asserts: the exit
code is 0 or 2 (or the command's own), there is no traceback, an error is one line that names the
bad value, and every file of the user's that was there before is the same, byte for byte. Commands
are forked from a process that has imported the libraries; one case in ``--afresh_every`` gets fresh
interpreters. The exit code is 1 if any case failed.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hostile_cases import ALL_CASES
from hostile_cases.fixtures import Things
from hostile_cases.launching import Launcher
from hostile_cases.trial import BrokenPromiseError, Case, Trial, opened


def main() -> int:
    """Run the cases and print."""
    options = parse_arguments()
    cases = chosen(options.only)
    if options.list:
        print("\n".join(f"{case.group}/{case.name}" for case in cases))
        return 0
    if not cases:
        print(f"no case is called {' or '.join(options.only)}; --list shows the names")
        return 2
    # A shell that starts this in the background lets it and all its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="robustness-"))
    started = time.monotonic()
    try:
        with Launcher() as launcher:
            results = run_all(cases, folder, launcher, options)
    finally:
        if not options.keep_folders:
            shutil.rmtree(folder, ignore_errors=True)
    summary = summarise(results, seconds=time.monotonic() - started)
    show(summary, results)
    if options.keep_folders:
        print(f"the folders of the cases are in {folder}")
    if options.output_file:
        text = json.dumps({**summary, "cases": results}, ensure_ascii=False, indent=1)
        options.output_file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return 1 if summary["failed"] else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP", help="these groups")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time")
    parser.add_argument("--afresh_every", type=int, default=20, help="0: never a new interpreter")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--quiet", action="store_true", help="no line for each case that failed")
    parser.add_argument("--output_file", type=Path, help="every case's result, as JSON")
    parser.add_argument("--keep_folders", action="store_true", help="leave the folders for a look")
    return parser.parse_args()


def chosen(only: Sequence[str]) -> list[Case]:
    """The cases of a group, of a full name, or whose name starts like this; all if none is."""
    if not only:
        return list(ALL_CASES)
    names = {f"{case.group}/{case.name}" for case in ALL_CASES}
    starts = tuple(part for part in only if part not in names)
    return [
        case
        for case in ALL_CASES
        if (name := f"{case.group}/{case.name}") in only
        or case.group in only
        or name.startswith(starts)
    ]


def run_all(
    cases: Sequence[Case], folder: Path, launcher: Launcher, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run the cases, ``--jobs`` at a time; the results are in the cases' order."""
    things = Things(folder / "things", launcher)
    every = options.afresh_every

    def run(numbered: tuple[int, Case]) -> dict[str, Any]:
        number, case = numbered
        own = folder / f"{number:04}"
        own.mkdir()
        afresh = bool(every) and number % every == every - 1
        trial = Trial(folder=own, things=things, launcher=launcher, afresh=afresh)
        result = run_case(case, trial)
        if not result["passed"] and not options.quiet:
            print(f"FAILED {result['name']}: {result['reason']}", flush=True)
        if result["passed"] or not options.keep_folders:
            shutil.rmtree(own, ignore_errors=True)
        return result

    results = {}
    for waits, jobs in ((False, options.jobs), (True, 4 * options.jobs)):
        batch = [numbered for numbered in enumerate(cases) if numbered[1].waits is waits]
        with ThreadPoolExecutor(jobs) as pool:
            for (number, _), result in zip(batch, pool.map(run, batch), strict=True):
                results[number] = result
    return [results[number] for number in range(len(cases))]


def run_case(case: Case, trial: Trial) -> dict[str, Any]:
    """One case's result, as JSON can hold it."""
    started = time.monotonic()
    reason = ""
    try:
        with opened(trial):
            case.act(trial)
    except BrokenPromiseError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 (a case that breaks is a case that failed)
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"the case itself: {error!r} at {Path(where.filename).name}:{where.lineno}"
    return {
        "name": f"{case.group}/{case.name}",
        "passed": not reason,
        "reason": reason,
        "command": trial.last_command.replace(str(trial.folder), "."),
        "afresh": trial.afresh,
        "folder": str(trial.folder),
        "output_tail": trial.last_output[-2000:] if reason else "",
        "seconds": round(time.monotonic() - started, 2),
    }


def summarise(results: Sequence[dict[str, Any]], *, seconds: float) -> dict[str, Any]:
    """Counts of all cases and of each group."""
    groups: dict[str, Counter[str]] = {}
    for result in results:
        count = groups.setdefault(result["name"].split("/")[0], Counter(tried=0, passed=0))
        count["tried"] += 1
        count["passed"] += result["passed"]
    passed = sum(count["passed"] for count in groups.values())
    return {
        "tried": len(results),
        "passed": passed,
        "failed": len(results) - passed,
        "seconds": round(seconds, 1),
        "groups": {name: dict(count) for name, count in groups.items()},
    }


def show(summary: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Print the table of the groups and the totals."""
    print(f"\n{'group':<14}{'tried':>7}{'passed':>8}{'failed':>8}")
    for name, count in summary["groups"].items():
        failed = count["tried"] - count["passed"]
        print(f"{name:<14}{count['tried']:>7}{count['passed']:>8}{failed:>8}")
    afresh = sum(result["afresh"] for result in results)
    print(
        f"tried {summary['tried']}, passed {summary['passed']}, failed {summary['failed']} in "
        f"{summary['seconds']:.0f} s; {afresh} of them with fresh interpreters"
    )


if __name__ == "__main__":
    sys.exit(main())
