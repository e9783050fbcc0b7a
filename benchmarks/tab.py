"""The tab: the time until a browser shows its first picture, for logs of several sizes."""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kbn.callbacks.recording.settings import layers_in_order
from kbn.callbacks.writing.event_file import EventFile, Record
from kbn.records import catalogue
from kbn.records.history import Rows
from kbn.records.tags import Place

RUNS = ("plain", "normalized")
SIZES = ((50, 1000), (200, 1000))  # layers, steps
DRAWN = 15  # seconds; by then every picture is drawn
SECONDS = """() => {
  const since = performance.timeOrigin - window.parent.performance.timeOrigin;
  const [tab, everything] = ["first-draw", "all-drawn"].map(
    name => performance.getEntriesByName(`kbn:${name}`)[0].startTime);
  return {tab: tab / 1e3, page: (since + tab) / 1e3, everything: everything / 1e3};
}"""


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure all sizes; nothing if Chromium is not installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("No Chromium: the tab is not measured (apt-get install chromium).", file=sys.stderr)
        return
    for layers, steps in SIZES[:1] if quick else SIZES:
        steps = 50 if quick else steps
        with tempfile.TemporaryDirectory() as folder:
            for number, run in enumerate(RUNS):
                _write(Path(folder) / run, layers, steps, number)
            taken = [_visits(chromium, folder) for _ in range(1 if quick else 5)]
        yield {"layers": layers, "steps": steps, "runs": len(RUNS),
               **{name: median(one[name] for one in taken) for name in taken[0]}}  # fmt: skip


def _visits(chromium: str, folder: str) -> dict[str, float]:
    """Return the seconds of a first visit to a new TensorBoard, and of the tab in a second one."""
    with served(folder) as url:
        first, again = (_seconds(chromium, url) for _ in range(2))
    return first | {"again": again["tab"]}


def _write(folder: Path, layers: int, steps: int, seed: int) -> None:
    places = [Place(f"block_{i // 10}/layer_{i}", "input") for i in range(layers)]
    measures = ("wasserstein", "jeffreys", *catalogue.PERCENTILES)
    values = np.random.default_rng(seed).lognormal(-2 - seed, 1, (steps, layers, len(measures)))
    file = EventFile(str(folder / "covariate_shift"), places, restarts=False, json_lines=False)
    for step, by_layer in enumerate(values.tolist()):
        found = {
            place: dict(zip(measures, of, strict=True))
            for place, of in zip(places, by_layer, strict=True)
        }
        rows = Rows(100 * step, found)
        texts = {} if step else {catalogue.LAYERS: layers_in_order(rows)}
        file.write(100 * step, Record(rows, texts=texts))


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Serve `folder` with a TensorBoard that has read all of it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    try:
        url = _said(process, r"http://127\.0\.0\.1:\d+")
        before = b""
        while (state := _fetched(f"{url}/data/plugin/kbn/state")) != before or not state:
            before = state
            time.sleep(6)  # TensorBoard reads its folder more often than this
        yield url
    finally:
        process.kill()
        process.wait()


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


def _seconds(chromium: str, url: str) -> dict[str, float]:
    """Return the seconds until the pictures were drawn, in a browser with an empty profile.

    Playwright connects only after all is drawn. If it drives a page from the start, Chromium keeps
    a trace of every error that a script catches, and parses Plotly's script again each time.
    """
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        _browser(chromium, f"{url}/#kbn", profile) as address,
        sync_playwright() as playwright,
    ):
        time.sleep(DRAWN)
        page = playwright.chromium.connect_over_cdp(address).contexts[0].pages[0]
        body = page.frame_locator('iframe[src*="name=kbn"]').locator("body[data-drawn]")
        return dict(body.evaluate(SECONDS))


@contextmanager
def _browser(chromium: str, url: str, profile: str) -> Iterator[str]:
    """Open `url` in a browser, and yield the address of its debugger."""
    options = ["--headless", "--no-sandbox", "--remote-debugging-port=0",
               "--window-size=1500,1400", f"--user-data-dir={profile}"]  # fmt: skip
    process = subprocess.Popen([chromium, *options, url], stderr=subprocess.PIPE, text=True)
    try:
        yield _said(process, r"ws://\S+")
    finally:
        process.kill()
        process.wait()


def _said(process: subprocess.Popen[str], pattern: str) -> str:
    """Return the first match of the pattern in what the process prints; discard the rest."""
    assert process.stderr is not None
    found = next(filter(None, (re.search(pattern, line) for line in process.stderr)))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return found[0]
