import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from prompt_distillation.data.load_test import read_load_test
from prompt_distillation.errors import InputError
from prompt_distillation.report.evaluation_plots import plot_all
from prompt_distillation.report.page import PageParts, build_page, is_own_page


class Links(HTMLParser):
    """Collects scripts and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in {"src", "href"} and not (value or "").startswith(("data:", "#")):
                self.loaded.append(value or "")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_hostile_texts_stay_texts(make_result) -> None:
    page = build_page(PageParts(results={"<b>m</b>": make_result(10, wrong=[4])}, main="<b>m</b>"))
    links = Links()
    links.feed(page)

    assert links.scripts == 2  # the data and our own
    assert links.loaded == []
    assert "<b>m</b>" not in page
    assert "<img src=x" not in page
    assert data_of(page)["rows"][4][1].startswith("</script><script>")


def test_the_data_carries_every_answer(make_result) -> None:
    results = {"one": make_result(5, unparsed=[2]), "two": make_result(5, wrong=[0])}
    data = data_of(build_page(PageParts(results=results, main="two")))

    assert data["models"] == ["one", "two"]
    assert data["raw_model"] == 1
    assert [row[5] for row in data["rows"][:3]] == [["en", "fr"], ["ar", "ar"], [None, "hi"]]


def test_a_load_test_is_shown_for_both_models(make_result, tmp_path) -> None:
    figures = {
        "requests_per_second": 9.94, "first_token_p50": 24.2, "first_token_p99": 50.1,
        "latency_p50": 126.0, "latency_p99": 279.4, "tokens_in": 395_000, "tokens_out": 5800,
        "failed": 0,
    }  # fmt: skip
    models = {"teacher": figures, "<b>student</b>": figures | {"latency_p50": 17.0}}
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"requests": 200, "request_rate": 10.0, "models": models}))
    results = {"one": make_result(5)}

    page = build_page(PageParts(results=results, main="one", load=read_load_test(file)))

    assert "200 requests at 10.0 per second" in page
    assert '126 / 279 ms</td><td class="number">17 / 279 ms' in page
    assert "<b>student" not in page
    assert "Under load" not in build_page(PageParts(results=results, main="one"))

    file.write_text(json.dumps({"requests": 200, "models": {"teacher": {"failed": "none"}}}))
    with pytest.raises(InputError, match="not a result of benchmarks"):
        read_load_test(file)


def test_a_comparison_brings_latency_and_the_bill(make_result, comparison_of) -> None:
    keyed = {"teacher": make_result(5), "student": make_result(5)}
    page = build_page(
        PageParts(
            results={f"the {key}": result for key, result in keyed.items()},
            main="the student",
            comparison=comparison_of(keyed),
        )
    )

    assert "10.0 times faster" in page
    assert "pays for itself after" in page
    assert "1,000,000" in page


def test_free_text_has_no_matrix_and_nothing_in_it_is_right_or_wrong(make_text_result) -> None:
    page = build_page(PageParts(results={"m": make_text_result(references=3, total=4)}, main="m"))

    assert 'id="matrix"' not in page
    assert "errors of this model" not in page
    assert "ROUGE-L" in page
    assert data_of(page)["judged"] is False
    assert [row[2] for row in data_of(page)["rows"]] == ["text 0", "text 1", "text 2", None]


def test_labels_without_a_truth_have_no_matrix(make_result) -> None:
    result = make_result(3)
    summary = replace(
        result.summary, evaluated=0, left_out=3, accuracy=None, accuracy_interval=None
    )
    predictions = tuple(
        replace(item, ground_truth=None, correct=None) for item in result.predictions
    )
    result = replace(result, summary=summary, predictions=predictions, per_language_accuracy={})

    page = build_page(PageParts(results={"m": result}, main="m"))

    assert 'id="matrix"' not in page
    assert "no gold answer is known" in page
    assert data_of(page)["rows"][0][5] == ["en"]


def test_a_page_knows_its_own_kind(make_result, tmp_path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    page.write_text(build_page(PageParts(results={"m": make_result(5)}, main="m")))
    other.write_text("<!doctype html><title>somebody's page</title>")

    assert is_own_page(page)
    assert not is_own_page(other)
    assert not is_own_page(tmp_path)


def test_half_a_character_does_not_lose_the_page(make_result) -> None:
    result = make_result(5)
    half = replace(result.predictions[0], text="half \ud83d an emoji")
    page = build_page(
        PageParts(
            results={"m": replace(result, predictions=(half, *result.predictions[1:]))}, main="m"
        )
    )

    assert data_of(page.encode().decode())["rows"][0][1] == "half \ufffd an emoji"


def test_confidence_is_part_of_the_comparison(make_result, comparison_of) -> None:
    keyed = {"teacher": make_result(50, wrong=[3]), "student": make_result(50, wrong=[1])}
    scored = make_result(50, wrong=[1], teacher_wrong=[3], scored=True)
    parts = PageParts(
        results={f"the {key}": result for key, result in keyed.items()},
        main="the student",
        comparison=comparison_of(keyed, scored=scored),
        scored=scored,
    )

    page = build_page(parts)

    assert "Expected calibration error: 0.110 (n=50)." in page
    assert "no input needs the teacher" in page
    assert "threshold chosen on one half" in page
    assert "Cost per million queries (USD): 100.00 with the cascade" in page
    rows = data_of(page)["rows"]
    assert (rows[0][8], rows[1][8]) == (0.9, 0.6)


def test_pictures_stand_beside_the_words_on_them(make_result, comparison_of, tmp_path) -> None:
    keyed = {"teacher": make_result(20), "student": make_result(20, wrong=[1])}
    results = {f"the {key}": result for key, result in keyed.items()}
    scored = make_result(20, wrong=[1], scored=True)
    comparison = comparison_of(keyed, scored=scored)

    page = build_page(
        PageParts(
            results=results,
            main="the student",
            comparison=comparison,
            pictures=plot_all(results, comparison, tmp_path),
        )
    )

    start, end = page.index('id="h-confidence"'), page.index('id="h-charts"')
    for name in ("calibration", "coverage", "cascade"):
        assert start < page.index(f'<img alt="{name}" width=') < end
    assert page.index('<img alt="cost"') < start
    assert '<figure class="broad"><img alt="cascade"' in page
    assert page.index('<img alt="delta accuracy"') > end


def test_confidence_that_was_not_measured_says_why(make_result, comparison_of) -> None:
    keyed = {"teacher": make_result(5), "student": make_result(5)}
    results = {f"the {key}": result for key, result in keyed.items()}

    page = build_page(
        PageParts(results=results, main="the student", comparison=comparison_of(keyed))
    )

    assert "Confidence was not measured: switched off by --no_score_labels." in page
