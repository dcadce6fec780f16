"""One HTML page that needs no network: what an engineer and a manager want to know of a result."""

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

from prompt_distillation.data.comparison import STUDENT_KEY, TEACHER_KEY, Cell, Comparison
from prompt_distillation.data.files import begins_with
from prompt_distillation.data.intervals import percent
from prompt_distillation.data.judgement import Judgement
from prompt_distillation.data.load_test import LoadTest
from prompt_distillation.data.probes import MODEL_TITLES, Probes
from prompt_distillation.data.results import UNPARSEABLE, Result, Usage
from prompt_distillation.data.text import encodable, shorten
from prompt_distillation.report.judge_table import (
    HEADS,
    judge_examples,
    judge_rows,
    judge_sentences,
)
from prompt_distillation.report.probe_table import probe_tables
from prompt_distillation.report.sentences import (
    comparison_confidence_sentences,
    confidence_sentences,
    cost_sentence,
    milliseconds,
    money,
    paired_sentence,
    speed_sentence,
    validity_sentence,
    with_bounds,
)

NO_ANSWER = "no answer"

MAX_RAW_LENGTH = 4000
"""Characters of an answer or a completion that the page carries; the result file has all of it."""


HALF_PAGE_PIXELS = 1400
"""A picture that is wider gets the page's whole width."""

SECTION_OF = {
    "accuracy_cost": "results", "cost": "cost", "calibration": "confidence",
    "coverage": "confidence", "cascade": "confidence", "training_loss": "training",
}  # fmt: skip

GENERATOR = '<meta name="generator" content="prompt-distillation report">'
"""Stands near the top of every page: only a file with it may be replaced by another page."""


@dataclass(frozen=True, kw_only=True)
class PageParts:
    """What a page is made of.

    Attributes:
        results: title -> evaluation, all of the same inputs in the same order.
        main: title of the one the page is about.
        scored: the evaluation of the labels' scores, for the model the page is about; in a report
            of one evaluation, that evaluation.
    """

    results: Mapping[str, Result]
    main: str
    comparison: Comparison | None = None
    scored: Result | None = None
    pictures: Sequence[Path] = ()
    judgement: Judgement | None = None
    probes: Probes | None = None
    load: LoadTest | None = None


def build_page(parts: PageParts) -> str:
    """The page as one text of HTML; every text of an input or a model is escaped."""
    main = parts.results[parts.main]
    script = template_file("report.js")
    template = html_environment().get_template("report.html.jinja")
    bill = parts.comparison.bill if parts.comparison else None
    heads, lines = _table_of_results(parts)
    page = template.render(
        title=f"{main.task}: {parts.main}",
        generator=Markup(GENERATOR),
        css=Markup(template_file("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        main=main,
        has_fields=has_fields(main),
        comparison=parts.comparison,
        tiles=_tiles(parts),
        heads=heads,
        lines=lines,
        text_table=_text_table(parts.results),
        probe_tables=list(probe_tables(parts.probes)) if parts.probes else [],
        pressed=_pressed(parts.probes) if parts.probes else {},
        bill=bill,
        confidence=_confidence(parts),
        judgement=parts.judgement,
        load=parts.load,
        sections=_pictures_by_section(parts.pictures),
        origin=_origin(main),
        details=_details(main),
        data=_data(parts),
    )
    return encodable(page)[0]


def is_own_page(path: Path) -> bool:
    """Whether `build_page` made this file: the only files that another page may replace."""
    return begins_with(path, GENERATOR.encode())


def html_environment() -> Environment:
    """What renders the templates of pages: every value is escaped, every name must be known."""
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
        "bounds": with_bounds, "percent": percent, "money": money, "paired": paired_sentence,
        "cost_of": cost_sentence, "speed_of": speed_sentence, "validity": validity_sentence,
        "judge_heads": HEADS, "judge_rows": judge_rows, "judge_sentences": judge_sentences,
        "judge_examples": judge_examples,
    }  # fmt: skip
    return environment


def template_file(name: str) -> str:
    """The text of a file beside the templates."""
    folder = resources.files("prompt_distillation.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


_Tile = tuple[str, str, str]
"""One of the figures at the top of the page: its value, its name, and a note."""


def _tiles(parts: PageParts) -> list[_Tile]:
    main, comparison = parts.results[parts.main], parts.comparison
    teacher = comparison.cell(TEACHER_KEY) if comparison else None
    student = comparison.cell(STUDENT_KEY) if comparison else None
    if comparison is not None and teacher is not None and student is not None:
        return [*_quality_tiles(main), *_saving_tiles(comparison, teacher, student)]
    if main.usage is None:
        return _quality_tiles(main)
    rate = f"{main.usage.queries_per_second:,.1f} queries/s in one batch"
    return [
        *_quality_tiles(main),
        (f"{_tokens(main.usage):,.0f} tokens", "per query, in and out", rate),
    ]


def _saving_tiles(comparison: Comparison, teacher: Cell, student: Cell) -> list[_Tile]:
    ours, theirs = student.alone.p50, teacher.alone.p50
    time = f"{milliseconds(ours)} instead of {milliseconds(theirs)} for a single query"
    tokens = f"{_tokens(student):,.0f} instead of {_tokens(teacher):,.0f}"
    tiles = [
        (f"{theirs / ours:,.1f}x faster", "than the teacher", time),
        (f"{_tokens(teacher) / _tokens(student):,.1f}x fewer", "tokens per query", tokens),
    ]
    if comparison.bill and student.cost and teacher.cost:
        saving = comparison.bill.saving_share
        prices = [money(cell.cost.per_million_queries) for cell in (student, teacher) if cell.cost]
        note = f"{' instead of '.join(prices)} {comparison.bill.currency} per million"
        share = f"{abs(saving):.0%} {'cheaper' if saving >= 0 else 'more expensive'}"
        tiles.append((share, "per query", note))
    return tiles


def _quality_tiles(main: Result) -> list[_Tile]:
    """How good the answers are: accuracy, or for free text the similarity to a reference."""
    summary, texts = main.summary, main.text_scores
    if texts is not None and texts.chrf is not None:
        scores = ", ".join(f"{name} {score.value:.2f}" for name, score in texts.compared)
        name = f"against the {texts.reference} texts"
        return [(f"{texts.chrf.value:.2f} chrF", name, f"{scores}, n={texts.n}")]
    if summary.accuracy is None:
        note = f"{summary.predicted} of {summary.total_samples}; no {main.truth} answer is known"
        return [(percent(summary.parse_rate), "of the answers could be read", note)]
    name = "objects exactly as in" if has_fields(main) else "accuracy against"
    truth = f"the {main.truth} {'answers' if has_fields(main) else 'labels'}"
    shares = [(f"{name} {truth}", summary.accuracy, summary.accuracy_interval, summary.evaluated)]
    teacher = main.truths.teacher_gold if main.truths else None
    if teacher is not None and teacher.accuracy is not None:
        shares.append(("accuracy of the teacher", teacher.accuracy, teacher.interval, teacher.n))
    tiles = [
        (percent(share), name, f"95 % interval {interval.low:.1%} to {interval.high:.1%}, n={n}")
        for name, share, interval, n in shares
        if interval is not None
    ]
    if main.field_scores is not None:
        note = f"{percent(main.field_scores.invented)} of the given values are invented"
        tiles.insert(1, (percent(main.field_scores.f1), "F1 of the values", note))
    return tiles


def has_fields(result: Result) -> bool:
    """Whether the answers are JSON: an object is right or wrong, and so is each of its values."""
    return result.metrics == "fields"


def _tokens(used: Usage | Cell) -> float:
    return used.prompt_tokens_per_query + used.completion_tokens_per_query


def _table_of_results(parts: PageParts) -> tuple[list[str], list[dict[str, Any]]]:
    """Headings, and a row for each model."""
    comparison, is_text = parts.comparison, parts.results[parts.main].text_scores is not None
    cells = {cell.title: cell for cell in comparison.cells} if comparison else {}
    heads = ["accuracy (95 % interval)", "n", "macro-F1"]
    if is_text:
        heads = ["chrF (95 % interval)", "n", "ROUGE-L"]
    if has_fields(parts.results[parts.main]):
        heads = ["exact objects (95 % interval)", "n", "F1 of values (95 % interval)"]
    heads += ["parse rate", "tokens in / out"]
    if comparison is not None:
        many = comparison.cells[0].loaded.concurrency
        currency = comparison.bill.currency if comparison.bill else "cost"
        heads += [
            "latency p50 / p95, one at a time", f"latency p50 / p95, {many} at a time",
            "queries/s, in one batch", f"{currency} per million",
        ]  # fmt: skip
    else:
        heads.append("seconds per query")
    rows = [
        {
            "title": title,
            "is_main": title == parts.main,
            "shown": [
                *_quality(result, is_text=is_text),
                *_speed(result.usage, cells.get(title)),
            ],
        }
        for title, result in parts.results.items()
    ]
    return heads, rows


def _quality(result: Result, *, is_text: bool) -> list[str]:
    summary, texts = result.summary, result.text_scores
    if not is_text:
        accuracy = with_bounds(summary.accuracy, summary.accuracy_interval)
        scores = result.field_scores
        f1 = with_bounds(scores.f1, scores.f1_interval) if scores else percent(summary.macro_f1)
        shown = [accuracy, str(summary.evaluated), f1]
    elif texts is None:
        shown = ["-", "0", "-"]
    else:
        chrf, rouge_l = (score.shown if score else "-" for score in (texts.chrf, texts.rouge_l))
        shown = [chrf, str(texts.n), rouge_l]
    return [*shown, percent(summary.parse_rate)]


def _text_table(results: Mapping[str, Result]) -> list[tuple[str, list[str]]]:
    """Each figure of texts, with its value for every model; none where answers are not texts."""
    columns = [dict(one.text_scores.named) if one.text_scores else {} for one in results.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        (name, [column[name].shown if name in column else "-" for column in columns])
        for name in names
    ]


def _pressed(probes: Probes) -> dict[str, list[tuple[str, list[tuple[str, str, bool]]]]]:
    """Category -> questions, each with ``(who, answer, in character)`` of every model."""
    found: dict[str, list[tuple[str, list[tuple[str, str, bool]]]]] = {}
    for item in probes.inputs:
        if item.category is not None:
            answers = [
                (
                    MODEL_TITLES[key],
                    NO_ANSWER if answer is None else shorten(answer, MAX_RAW_LENGTH),
                    item.in_character[key],
                )
                for key, answer in item.answers.items()
            ]
            found.setdefault(item.category.replace("_", " "), []).append((item.text, answers))
    return found


def _speed(used: Usage | None, cell: Cell | None) -> list[str]:
    tokens = "-"
    if used is not None:
        tokens = f"{used.prompt_tokens_per_query:.0f} / {used.completion_tokens_per_query:.1f}"
    if cell is None:
        return [tokens, f"{used.seconds_per_query:.4f}" if used else "-"]
    return [
        tokens,
        f"{milliseconds(cell.alone.p50)} / {milliseconds(cell.alone.p95)}",
        f"{milliseconds(cell.loaded.p50)} / {milliseconds(cell.loaded.p95)}",
        f"{cell.queries_per_second:.1f}",
        money(cell.cost.per_million_queries) if cell.cost else "-",
    ]


def _confidence(parts: PageParts) -> list[str]:
    """Sentences on how sure the model is; none where its labels were not scored."""
    if parts.comparison is not None:
        return list(comparison_confidence_sentences(parts.comparison))
    found = parts.results[parts.main].confidence
    return list(confidence_sentences(found)) if found else []


def _pictures_by_section(pictures: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Section -> its pictures, beside the words on them.

    Their sizes, in pixels, keep the page from jumping when they are decoded.
    """
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in (*dict.fromkeys(SECTION_OF.values()), "others")
    }
    for path in pictures:
        content = path.read_bytes()
        # PNG, third edition, 11.2.1: the header's first two numbers, big-endian, from byte 16 on.
        width, height = struct.unpack(">II", content[16:24])
        picture = {
            "name": path.stem.replace("_", " "),
            "width": width,
            "height": height,
            "is_broad": width > HALF_PAGE_PIXELS,
            "base64": base64.b64encode(content).decode(),
        }
        found[SECTION_OF.get(path.stem, "others")].append(picture)
    return found


def _origin(main: Result) -> list[tuple[str, str]]:
    made = main.provenance
    return [
        ("evaluated", f"{main.timestamp}, commit {made.get('git_commit') or 'unknown'}"),
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
        *(
            [_cut(item.predicted) for item in result.predictions]
            for result in parts.results.values()
        ),
        strict=True,
    )
    matrix = main.confusion_matrix
    is_judged = main.truths is not None and main.summary.evaluated > 0
    names = matrix.labels if matrix and is_judged else ()
    leaking = set(main.text_scores.leaks.indices) if main.text_scores else set()
    return {
        "models": titles,
        "raw_model": titles.index(parts.main),
        "unparseable": UNPARSEABLE,
        "labels": [label for label in names if label != UNPARSEABLE],
        "judged": is_judged,
        "leaks": [place for place, item in enumerate(main.predictions) if item.index in leaking],
        "rows": [
            [
                item.index,
                item.text,
                _cut(item.ground_truth),
                _cut(item.teacher),
                item.teacher_asked,
                list(given),
                shorten(item.raw_output or "", MAX_RAW_LENGTH),
                item.trained_on is True,
                sure,
                [(turn["role"], turn["content"]) for turn in item.history],
            ]
            for item, given, sure in zip(
                main.predictions, answers, _confidences(parts), strict=True
            )
        ],
    }


def _cut(answer: str | None) -> str | None:
    """An answer that is short enough for the page; two that differ still differ."""
    if answer is None or len(answer) <= MAX_RAW_LENGTH:
        return answer
    digest = hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()
    return f"{shorten(answer, MAX_RAW_LENGTH)} ({len(answer):,} characters, SHA-256 {digest[:12]})"


def _confidences(parts: PageParts) -> list[float | None]:
    """How sure the model is of its likeliest label, for each input; None where none was scored."""
    scored = parts.scored or parts.results[parts.main]
    return [
        round(max(item.label_probabilities.values()), 4) if item.label_probabilities else None
        for item in scored.predictions
    ]
