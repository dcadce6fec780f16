import json
import re
from html.parser import HTMLParser

from prompt_distillation.report.curves import LossCurve, draw_curves, read_curves
from prompt_distillation.report.page import PageParts, build_page
from prompt_distillation.report.plots import plot_all


class Links(HTMLParser):
    """Collects scripts and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in {"src", "href"} and not (value or "").startswith("data:"):
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
    assert "paid for after" in page
    assert "1,000,000" in page


def test_curves_are_read_and_scaled(tmp_path) -> None:
    (tmp_path / "loss.csv").write_text(
        "step,epoch,loss,eval_loss,learning_rate,grad_norm\n1,0.1,4.0,,1e-4,1\n2,0.2,2.0,3.0,,\n"
    )

    curves = read_curves(tmp_path)
    drawing = draw_curves(curves)

    assert [(curve.name, list(curve.points)) for curve in curves] == [
        ("training loss", [(1.0, 4.0), (2.0, 2.0)]),
        ("held-out loss", [(2.0, 3.0)]),
    ]
    assert drawing.lines[0]["points"] == "340.0,10.0 630.0,105.0"
    assert (drawing.top, drawing.end) == ("4", "2")
    assert read_curves(tmp_path / "none") == []
    assert draw_curves([LossCurve(name="x", colour="red", points=[])]).lines == []


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

    assert "Expected calibration error 0.110 (n=50)." in page
    assert "nothing has to fall back to the teacher" in page
    assert "had no say in the threshold" in page
    assert "A million queries cost 100.00 USD with the cascade" in page
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

    start, end = page.index('id="h-confidence"'), page.index('id="h-pictures"')
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

    assert "Not scored: switched off by --no_score_labels." in page
