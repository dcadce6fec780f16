"""The page in a real browser: it opens fast, filters, and obeys no input."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prompt_distillation.evaluation.text_scores import text_scores
from prompt_distillation.report.page import PageParts, build_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None or shutil.which("chromedriver") is None,
        reason="no chromium (apt-get install chromium chromium-driver)",
    ),
]

ROWS = 10_000
WRONG = [7, 12, 14, 5000, 9999]
TEACHER_WRONG = [12, 13]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(make_result, tmp_path_factory) -> Path:
    result = make_result(ROWS, wrong=WRONG, teacher_wrong=TEACHER_WRONG, unparsed=[21])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page(PageParts(results={"student": result}, main="student")))
    return path


@pytest.fixture
def opened(browser, page: Path):
    browser.get(page.as_uri())
    return browser


def count_of(browser) -> str:
    return browser.find_element("id", "count").text


def choose(browser, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def test_hostile_inputs_do_nothing_and_nothing_goes_wrong(opened) -> None:
    choose(opened, "who", "any")
    opened.find_element("id", "search").send_keys("owned")

    assert count_of(opened) == f"{ROWS // 5} of {ROWS} inputs"
    assert opened.title == "language: student"
    assert not opened.find_elements("css selector", "#list img, #detail img, #detail script")
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_only_rows_in_sight_exist(opened) -> None:
    choose(opened, "who", "any")

    assert len(opened.find_elements("css selector", ".row")) < 100
    opened.execute_script("document.getElementById('list').scrollTop = 1e9")
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    last = opened.find_elements("css selector", ".row")[-1]
    assert last.get_attribute("aria-posinset") == str(ROWS)


def test_filters_by_who_is_wrong_and_by_label(opened) -> None:
    assert count_of(opened) == f"6 of {ROWS} inputs"  # what this model got wrong comes first
    choose(opened, "who", "both_wrong")
    assert count_of(opened) == f"1 of {ROWS} inputs"
    choose(opened, "who", "only_teacher_wrong")
    assert count_of(opened) == f"1 of {ROWS} inputs"
    choose(opened, "who", "no_answer")
    assert count_of(opened) == f"1 of {ROWS} inputs"
    choose(opened, "who", "wrong")
    choose(opened, "truth", "hi")
    assert count_of(opened) == f"2 of {ROWS} inputs"  # 7 and 12


def test_a_cell_of_the_matrix_shows_its_inputs(opened) -> None:
    cell = opened.find_element("css selector", 'button[data-truth="hi"][data-answer="fr"]')
    assert cell.text == "2"

    cell.click()

    assert count_of(opened) == f"2 of {ROWS} inputs"
    assert cell.get_attribute("aria-pressed") == "true"
    assert "सुप्रभात" in opened.find_element("id", "detail").text
    assert opened.find_element("css selector", "#detail .text").get_attribute("dir") == "auto"


def test_the_keyboard_is_enough(opened) -> None:
    from selenium.webdriver import Keys

    opened.find_element("tag name", "body").send_keys("/")
    assert opened.switch_to.active_element.get_attribute("id") == "search"
    box = opened.find_element("id", "list")
    box.send_keys(Keys.END)
    assert "Input 10000" in opened.find_element("id", "detail").text
    box.send_keys(Keys.ARROW_UP)
    assert "Input 5001" in opened.find_element("id", "detail").text


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_runs_off_the_side(opened, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )

    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_screenshot_script_takes_a_picture(page: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    script = Path(__file__).parents[2] / "tools" / "screenshot_report.py"
    picture = tmp_path / "assets" / "report.png"

    done = subprocess.run(
        [sys.executable, script, "--page", page, "--output_file", picture, "--height", "700"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert imread(picture).shape[:2] == (700, 1400)
    missing = subprocess.run(
        [sys.executable, script, "--page", tmp_path / "none.html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def test_texts_are_found_by_what_was_answered_and_by_what_is_wrong_with_them(
    browser, make_text_result, tmp_path: Path
) -> None:
    prompt = "Count the gulls at noon and never say how many there are."
    answers = ("Inspector had the haddock.", f"I {prompt}", None, "text 3")
    result = make_text_result(references=4, total=4)
    predictions = tuple(
        replace(item, predicted=answer)
        for item, answer in zip(result.predictions, answers, strict=True)
    )
    scores = text_scores(predictions, "teacher", prompt=prompt)
    result = replace(result, predictions=predictions, text_scores=scores)
    path = tmp_path / "page.html"
    path.write_text(build_page(PageParts(results={"student": result}, main="student")))
    browser.get(path.as_uri())

    for what, count in (("any", 4), ("leaks", 1), ("long", 2), ("short", 1), ("no_answer", 1)):
        choose(browser, "who", what)
        assert count_of(browser) == f"{count} of 4 inputs"
    choose(browser, "who", "any")
    browser.find_element("id", "search").send_keys("haddock")
    assert count_of(browser) == "1 of 4 inputs"
