"""A picture of the HTML report, for the documentation.

    python scripts/report.py --comparison_dir ./comparison
    python tools/screenshot_report.py --page ./report.html --output_file docs/assets/report.png

Needs chromium and its driver (Debian: apt-get install chromium chromium-driver), and selenium from
the `dev` extra.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image

WIDTH = 1400
PICTURES_SHOWN = """
const done = arguments[0];
Promise.all([...document.images].map((image) => image.decode())).then(() => done());
"""
"""Pictures are decoded while the page is already shown; this waits for them."""


def screenshot(page: Path, *, height: int, section: str | None) -> bytes:
    """The page in a window of `WIDTH` x ``height`` pixels, from its top or from ``section`` on."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get(page.resolve().as_uri() + (f"#{section}" if section else ""))
        driver.execute_async_script(PICTURES_SHOWN)
        return bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()


def main() -> int:
    """Take the picture; 2 where something is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, default=Path("report.html"))
    parser.add_argument("--output_file", type=Path, default=Path("docs/assets/report.png"))
    parser.add_argument("--height", type=int, default=1500, help="of the window, in pixels")
    parser.add_argument("--section", help="id of the heading to start at, e.g. h-inputs")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        print(f"no such file: {arguments.page}; make it with scripts/report.py", file=sys.stderr)
        return 2
    if shutil.which("chromedriver") is None:
        print("no chromedriver; apt-get install chromium chromium-driver", file=sys.stderr)
        return 2
    taken = screenshot(arguments.page, height=arguments.height, section=arguments.section)
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(arguments.output_file, optimize=True)
    size = arguments.output_file.stat().st_size
    print(f"{arguments.output_file}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
