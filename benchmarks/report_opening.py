"""How long the report takes to open in headless Chromium, until its list can be used.

    .venv/bin/python benchmarks/report_opening.py              # 10,000 rows
    .venv/bin/python benchmarks/report_opening.py --rows 50000

Needs Debian's chromium and chromium-driver. The texts are the example's, repeated.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.inputs import Input, read_inputs
from prompt_distillation.data.results import Result
from prompt_distillation.evaluation.evaluator import build_result
from prompt_distillation.evaluation.predictions import prediction_of
from prompt_distillation.evaluation.selection import read_labelled_data, select
from prompt_distillation.report.page import PageParts, build_page
from prompt_distillation.tasks import Answer, load_task

CHROMEDRIVER = "/usr/bin/chromedriver"
READY_MILLISECONDS = """
const done = arguments[0];
const look = () => document.body.dataset.ready ? done(performance.now()) : setTimeout(look, 5);
look();
"""


def make_result(rows: int) -> Result:
    """A result of ``rows`` inputs, one in twenty of them wrong."""
    task = load_task(Path("tasks/language"))
    texts = [item.text for item in read_inputs(Path("example-data/multilingual.txt"))]
    inputs = [
        Input(index=i, text=f"{texts[i % len(texts)]} {i}", group=str(i), gold="fr")
        for i in range(rows)
    ]
    training = read_labelled_data(Path("no-training-data.jsonl"))
    selection = select(inputs, training, split="all", max_samples=None, truth=None)
    predictions = tuple(
        prediction_of(item, Answer(text="fr" if i % 20 else "de"), task=task, raw_output="fr")
        for i, item in enumerate(selection.items)
    )
    return build_result(selection, predictions, task=task, config=EvaluateConfig(), base_model="m")


def main() -> None:
    """Build the page, open it a few times, print the milliseconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    page = build_page(PageParts(results={"student": make_result(arguments.rows)}, main="student"))
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
        try:
            times = []
            for _ in range(arguments.repeats):
                driver.get(path.as_uri())
                times.append(driver.execute_async_script(READY_MILLISECONDS))
        finally:
            driver.quit()
    size = len(page.encode()) / 1e6
    print(
        f"{arguments.rows} rows, {size:.1f} MB: ready after {statistics.median(times):.0f} ms "
        f"(median of {len(times)}, worst {max(times):.0f} ms)"
    )


if __name__ == "__main__":
    main()
