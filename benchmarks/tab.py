"""The tab: how long its first picture takes in a browser, from a log of known size."""

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

from kbn import tags
from kbn.callbacks.settings import layers_in_order
from kbn.callbacks.writer import EventFile, Record
from kbn.history import Rows
from kbn.tags import Tap

RUNS = ("plain", "normalized")
SIZES = ((50, 1000), (200, 1000))  # layers, steps
FIRST_DRAW = "performance.getEntriesByName('kbn:first-draw')[0]?.startTime"


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure all of it; nothing where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("No Chromium: the tab is not measured (apt-get install chromium).", file=sys.stderr)
        return
    for layers, steps in SIZES[:1] if quick else SIZES:
        steps = 50 if quick else steps
        with tempfile.TemporaryDirectory() as folder:
            for number, run in enumerate(RUNS):
                _write(Path(folder) / run, layers, steps, number)
            with served(folder) as url:
                taken = [_first_draw(chromium, url) for _ in range(1 if quick else 5)]
        yield {"layers": layers, "steps": steps, "runs": len(RUNS),
               **{name: median(one[name] for one in taken) for name in taken[0]}}  # fmt: skip


def _write(folder: Path, layers: int, steps: int, seed: int) -> None:
    taps = [Tap(f"block_{i // 10}/layer_{i}", "input") for i in range(layers)]
    measures = (tags.WASSERSTEIN, tags.JEFFREYS, *tags.PERCENTILE_MEASURES)
    values = np.random.default_rng(seed).lognormal(-2 - seed, 1, (steps, layers, len(measures)))
    file = EventFile(str(folder / tags.RUN_DIRECTORY), taps, restarts=False, json_lines=False)
    for step, by_layer in enumerate(values.tolist()):
        found = {
            tap: dict(zip(measures, of, strict=True))
            for tap, of in zip(taps, by_layer, strict=True)
        }
        rows = Rows(100 * step, found)
        texts = {} if step else {tags.LAYERS: layers_in_order(rows)}
        file.write(100 * step, Record(rows, texts=texts))
    file.close()


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Serve `folder` by a TensorBoard that has read all of it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line)
                                   for line in process.stderr)))  # fmt: skip
        threading.Thread(target=process.stderr.read, daemon=True).start()
        before = b""
        while (state := _fetched(f"{found[0]}/data/plugin/kbn/state")) != before or not state:
            before = state
            time.sleep(6)  # longer than TensorBoard takes between two looks at its folder
        yield found[0]
    finally:
        process.kill()
        process.wait()


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


def _first_draw(chromium: str, url: str) -> dict[str, float]:
    """Return seconds until the heat map stands, in a browser that saw nothing before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        start = time.perf_counter()
        page.goto(f"{url}/#kbn")
        frame = page.frame_locator('iframe[src*="name=kbn"]')
        frame.locator("#heat_map .hm image").nth(len(RUNS) - 1).wait_for(timeout=120_000)
        whole = time.perf_counter() - start
        drawn = frame.locator("body").evaluate(f"() => {FIRST_DRAW}") / 1e3
        frame.locator("body[data-drawn]").wait_for(timeout=120_000)
        everything = time.perf_counter() - start
        browser.close()
    return {"tab": drawn, "page": whole, "everything": everything}
