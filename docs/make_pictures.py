"""Draw the README's picture: run the demonstration and photograph its percentiles page."""

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
TARGET = Path(__file__).parent / "percentiles.png"


def main() -> None:
    """Write `docs/percentiles.png`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "kbn", "demo", "--log-dir", folder], check=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 980, "height": 800})
            page.goto((Path(folder) / "percentiles.html").as_uri())
            page.locator(".main-svg").first.wait_for()
            page.screenshot(path=TARGET, full_page=True)
            browser.close()
    print(TARGET)


if __name__ == "__main__":
    main()
