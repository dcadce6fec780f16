"""One HTML page that needs no network: everything an engineer and a manager ask of a result."""

import base64
import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prompt_distillation.data.comparison import Comparison
from prompt_distillation.data.results import UNPARSEABLE, Result
from prompt_distillation.data.text import shorten
from prompt_distillation.report.comparison_table import milliseconds, speed_line
from prompt_distillation.report.confidence_text import (
    comparison_confidence_lines,
    confidence_lines,
)
from prompt_distillation.report.curves import LossCurve, draw_curves
from prompt_distillation.report.terminal import money, percent, with_bounds, with_interval

MAX_RAW_LENGTH = 4000
"""Characters of one completion that the page carries; the result file has all of it."""


HALF_PAGE_PIXELS = 1400
"""A picture that is wider gets the page's whole width."""

SECTION_OF = {
    "cost": "cost", "calibration": "confidence", "coverage": "confidence", "cascade": "confidence",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PageParts:
    """What a page is made of.

    Attributes:
        results: title -> evaluation, all of the same inputs in the same order.
        main: title of the one the page is about.
        comparison: latency, costs and confidence.
        scored: the evaluation of the labels' scores, for the model the page is about; in a report
            of one evaluation, that evaluation.
        curves: of the training.
        pictures: PNG files.
    """

    results: Mapping[str, Result]
    main: str
    comparison: Comparison | None = None
    scored: Result | None = None
    curves: Sequence[LossCurve] = ()
    pictures: Sequence[Path] = ()


def build_page(parts: PageParts) -> str:
    """The page as one text of HTML; every text of an input or a model is escaped."""
    main = parts.results[parts.main]
    script = _resource("report.js")
    template = _environment().get_template("report.html.jinja")
    bill = parts.comparison.bill if parts.comparison else None
    curves = draw_curves(parts.curves)
    return template.render(
        title=f"{main.task}: {parts.main}",
        css=Markup(_resource("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        main=main,
        comparison=parts.comparison,
        speed=speed_line(parts.comparison) if parts.comparison else "",
        lines=_lines(parts),
        truths=_truths(main),
        paired=main.truths.student_against_teacher if main.truths else None,
        bill=bill,
        currency=bill.currency if bill else "cost",
        confidence=_confidence(parts),
        sections=_pictures_by_section(parts.pictures),
        curves=curves.lines,
        curve_top=curves.top,
        curve_end=curves.end,
        origin=_origin(main),
        details=_details(main),
        data=_data(parts),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prompt_distillation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    # tojson writes <, >, & and ' as \u003c and so on, so that no text can close the script tag.
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False, "allow_nan": False, "separators": (",", ":"),
    }  # fmt: skip
    environment.globals |= {
        "share": with_interval, "bounds": with_bounds, "percent": percent, "money": money,
    }  # fmt: skip
    return environment


def _resource(name: str) -> str:
    folder = resources.files("prompt_distillation.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _lines(parts: PageParts) -> list[dict[str, Any]]:
    """Rows of the table of results."""
    cells = {cell.title: cell for cell in parts.comparison.cells} if parts.comparison else {}
    lines = []
    for title, result in parts.results.items():
        summary, used = result.summary, result.usage
        values = [
            with_bounds(summary.accuracy, summary.accuracy_interval),
            str(summary.evaluated),
            percent(summary.macro_f1),
            percent(summary.parse_rate),
            f"{used.prompt_tokens_per_query:.0f} / {used.completion_tokens_per_query:.1f}"
            if used
            else "-",
        ]
        if cell := cells.get(title):
            values += [
                f"{milliseconds(cell.alone.p50)} / {milliseconds(cell.alone.p95)}",
                f"{milliseconds(cell.loaded.p50)} / {milliseconds(cell.loaded.p95)}",
                f"{cell.queries_per_second:.1f}",
                money(cell.cost.per_million_queries) if cell.cost else "-",
            ]
        else:
            values.append(f"{used.seconds_per_query:.4f}" if used else "-")
        lines.append({"title": title, "shown": values, "is_main": title == parts.main})
    return lines


def _confidence(parts: PageParts) -> list[str]:
    """Sentences on how sure the model is; none where its labels were not scored."""
    if parts.comparison is not None:
        return list(comparison_confidence_lines(parts.comparison))
    found = parts.results[parts.main].confidence
    return list(confidence_lines(found)) if found else []


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    """A PNG file; its size, in pixels, keeps the page from jumping when it is decoded."""

    name: str
    width: int
    height: int
    base64: str

    @property
    def is_broad(self) -> bool:
        """Whether it is of several panels side by side, too small in half the page."""
        return self.width > HALF_PAGE_PIXELS


def _pictures_by_section(pictures: Sequence[Path]) -> dict[str, list[_Picture]]:
    """Section -> its pictures; they stand beside the words on them."""
    found: dict[str, list[_Picture]] = {"cost": [], "confidence": [], "others": []}
    for path in pictures:
        content = path.read_bytes()
        # PNG, third edition, 11.2.1: the header's first two numbers, big-endian, from byte 16 on.
        width, height = struct.unpack(">II", content[16:24])
        picture = _Picture(
            name=path.stem.replace("_", " "),
            width=width,
            height=height,
            base64=base64.b64encode(content).decode(),
        )
        found[SECTION_OF.get(path.stem, "others")].append(picture)
    return found


def _truths(main: Result) -> list[tuple[str, Any]]:
    if main.truths is None:
        return []
    return [
        ("this model against gold", main.truths.student_gold),
        ("teacher against gold", main.truths.teacher_gold),
        ("this model against the teacher", main.truths.student_teacher),
    ]


def _origin(main: Result) -> list[tuple[str, str]]:
    made = main.provenance
    return [
        ("made", f"{main.timestamp}, commit {made.get('git_commit') or 'unknown'}"),
        ("task", f"{main.task}, prompt SHA-256 {main.prompt_sha256}"),
        ("model", main.base_model),
        ("adapter", main.adapter or "none"),
        *((f"SHA-256 of {name}", digest) for name, digest in main.inputs.items()),
    ]


def _details(main: Result) -> str:
    return json.dumps(
        {"config": main.config, "provenance": main.provenance, "usage": main.usage},
        default=dataclasses.asdict,
        ensure_ascii=False,
        indent=2,
    )


def _data(parts: PageParts) -> dict[str, Any]:
    """What the script shows; rows are lists, for 10,000 of them must load at once."""
    titles = list(parts.results)
    main = parts.results[parts.main]
    answers = zip(
        *([item.predicted for item in result.predictions] for result in parts.results.values()),
        strict=True,
    )
    matrix = main.confusion_matrix
    labels = [label for label in matrix.labels if label != UNPARSEABLE] if matrix else []
    return {
        "models": titles,
        "raw_model": titles.index(parts.main),
        "unparseable": UNPARSEABLE,
        "labels": labels,
        "rows": [
            [
                item.index,
                item.text,
                # Generated text is not right or wrong by being the same.
                item.ground_truth if matrix else None,
                item.teacher,
                item.teacher_asked,
                list(given),
                shorten(item.raw_output or "", MAX_RAW_LENGTH),
                item.trained_on is True,
                sure,
            ]
            for item, given, sure in zip(
                main.predictions, answers, _confidences(parts), strict=True
            )
        ],
    }


def _confidences(parts: PageParts) -> list[float | None]:
    """How sure the model is of its likeliest label, for each input; None where none was scored."""
    scored = parts.scored or parts.results[parts.main]
    return [
        round(max(item.label_probabilities.values()), 4) if item.label_probabilities else None
        for item in scored.predictions
    ]
