"""Make the README's picture of the tab: run the demonstration, and take a screenshot."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.tab import served

CHROMIUM = shutil.which("chromium")  # None: Playwright uses its own
DOCS = Path(__file__).parent


def main() -> None:
    """Write `docs/tab.png`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "kbn", "demo", "--log-dir", folder], check=True)
        print(_tab(folder))


def photograph(page_of_figure: Path, target: Path) -> None:
    """Write a picture of the only figure of a page."""
    with _page(width=1020, height=800) as page:
        page.goto(page_of_figure.resolve().as_uri())
        page.locator(".main-svg").first.wait_for()
        page.locator(".plotly-graph-div").screenshot(path=target)


def _tab(folder: str) -> Path:
    target = DOCS / "tab.png"
    with served(folder) as url, _page(width=1400, height=1100) as page:
        page.goto(f"{url}/#kbn")
        frame = page.frame_locator('iframe[src*="name=kbn"]')
        frame.locator("body[data-drawn]").wait_for(timeout=60_000)
        page.screenshot(path=target)
    return target


@contextmanager
def _page(**size: int) -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport=size)
        browser.close()


if __name__ == "__main__":
    main()
