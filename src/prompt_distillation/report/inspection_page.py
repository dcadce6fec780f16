"""What was found in inputs and datasets, as one HTML page and as lines on the screen."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prompt_distillation.data.files import (
    atomic_writer,
    begins_with,
    has_keys,
    refuse_unsafe_outputs,
    write_json,
)
from prompt_distillation.data.inspection import Check, Inspection, Part
from prompt_distillation.data.text import encodable, safe_for_terminal
from prompt_distillation.report.page import html_environment, template_file

GENERATOR = '<meta name="generator" content="prompt-distillation inspection">'
"""Stands near the top of every page: only a file with it may be replaced by another page."""


def json_path(page: Path) -> Path:
    """Where the measures stand as JSON, beside the page."""
    return page.with_suffix(".json")


def check_inspection_outputs(page: Path, inputs: Iterable[Path | None]) -> None:
    """See that page and JSON destroy nothing; call it before anything is measured.

    Raises:
        ConfigError, OutputExistsError: as `refuse_unsafe_outputs`.
    """

    def is_ours(path: Path) -> bool:
        if path == page:
            return begins_with(path, GENERATOR.encode())
        return has_keys(path, "inspection_version")

    refuse_unsafe_outputs([page, json_path(page)], inputs, is_ours=is_ours)


def write_inspection(page: Path, found: Inspection) -> None:
    """Write the JSON and the page."""
    write_json(json_path(page), _as_json(found))
    with atomic_writer(page) as file:
        file.write(inspection_page(found))


def _as_json(found: Inspection) -> dict[str, Any]:
    checks = [
        dataclasses.asdict(check) | {"share": check.share, "passed": check.passed}
        for check in found.checks
    ]
    return dataclasses.asdict(found) | {"checks": checks}


def inspection_page(found: Inspection) -> str:
    """The page as one text of HTML without a script; every text of the data is escaped."""
    template = html_environment().get_template("inspection.html.jinja")
    page = template.render(
        found=found, generator=Markup(GENERATOR), css=Markup(template_file("report.css"))
    )
    return encodable(page)[0]


def inspection_lines(found: Inspection) -> Iterator[str]:
    """What was found, one fact a line."""
    for part in found.parts:
        yield _part_line(part)
    for reason, count in found.rejects.items():
        yield f"rejected        {count:,} {reason}"
    for check in found.checks:
        yield _check_line(check)


def _part_line(part: Part) -> str:
    lengths = part.text_lengths
    scripts = ", ".join(f"{name} {count:,}" for name, count in list(part.scripts.items())[:5])
    line = (
        f"{part.name:<15} {part.rows:,}; {lengths.unit} of the text: median {lengths.median:,}, "
        f"longest {lengths.longest:,}"
    )
    if answers := part.answer_lengths:
        line += f"; of the answer: median {answers.median:,}, longest {answers.longest:,}"
    return safe_for_terminal(f"{line}; scripts: {scripts}")


def _check_line(check: Check) -> str:
    verdict = "ok    " if check.passed else "FAILED"
    line = (
        f"{verdict} {check.name}: {check.found:,} of {check.of:,} ({check.share:.1%}, at most "
        f"{check.limit:.1%})"
    )
    return line if check.passed or not check.places else f"{line}, e.g. {check.places[0]}"
