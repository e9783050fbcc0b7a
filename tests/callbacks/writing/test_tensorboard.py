"""A live TensorBoard on what callbacks wrote: its data over HTTP, its pages in Chromium."""

import io
import os
import re
import subprocess
import sys
import urllib.parse

import keras
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from kbn.callbacks import CovariateShift
from kbn.callbacks.writing.summaries import CATEGORY
from kbn.distributions.positions import sample_positions
from kbn.distributions.sketch import BASIS_POINTS
from kbn.records import catalogue, tags
from tests.support.servers import Server

# The scalars of a layer whose activation has no bounds, with the distances that are the default.
OTHERS = {f"{name}{end}" for name in catalogue.distances()[2:] for end in ("", "_worst")}
SCALARS = set(catalogue.scalars("covariate_shift")) - {"saturated"} - OTHERS
COST = {f"{catalogue.MONITOR}/record/{site}" for site in ("milliseconds", "bytes")}
N, FEATURES, MANY = 120, 9, 4000


def _activations():
    """Arrays (samples, features) whose distribution a histogram easily gets wrong."""
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(2, (N, FEATURES))
    one_nan = rng.normal(size=(N, FEATURES))
    one_nan[17, 3] = np.nan
    cauchy_far = 1e4 + rng.standard_cauchy((N, FEATURES))
    large = rng.standard_t(2, (MANY, FEATURES))
    all_nan = np.full((N, FEATURES), np.nan)
    return {
        "normal": rng.normal(3, 2, (N, FEATURES)),
        "heavy": heavy,
        "one_nan": one_nan,
        "cauchy_far": cauchy_far,
        "constant": np.full((N, FEATURES), 0.7),
        "two_values": rng.integers(0, 2, (N, FEATURES)).astype(float),
        "beyond_max_samples": large,
        "all_nan": all_nan,
    }


ACTIVATIONS = {name: x.astype("float32") for name, x in _activations().items()}
MAX_SAMPLES = 9 * 256  # fewer than MANY × FEATURES, more than N × FEATURES


def record(log_dir, name, x):
    """Record the activations `x` of a layer that hands its input on, through a real `fit`."""
    model = keras.Sequential(
        [
            keras.layers.Input((FEATURES,)),
            keras.layers.Identity(name="layer"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    shift = CovariateShift(
        log_dir / name, x, layers="layer", every_steps=1, probe_size=MANY, max_samples=MAX_SAMPLES
    )
    clean = np.zeros((4, FEATURES))
    model.fit(clean, clean[:, :1], batch_size=2, verbose=0, callbacks=[shift])


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "python_loader"])
def server(request, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("log")
    for name, x in ACTIVATIONS.items():
        record(log_dir, name, x)
    server = Server(log_dir, f"--load_fast={request.param}")
    path = "/data/plugin/distributions/tags"
    server.wait_for(path, lambda runs: len(runs) == len(ACTIVATIONS))
    yield server
    server.close()


def kept_values(x):
    """The values the sketch kept: all finite ones, or those at its fixed positions."""
    positions = sample_positions(*x.shape, MAX_SAMPLES)
    if x.size > MAX_SAMPLES:
        x = x[positions.rows][:, positions.columns]
        assert x.size < MAX_SAMPLES + 1
    return x[np.isfinite(x)].astype("float64")


@pytest.mark.basic("*fast*")
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "all_nan"])
@pytest.mark.parametrize("site", tags.SITES)
def test_distributions_are_numpys_quantiles(server, name, site):
    answer = server.wait_for(
        "/data/plugin/distributions/distributions",
        lambda points: len(points) == 3,
        run=f"{name}/covariate_shift",
        tag=f"{catalogue.HISTOGRAM}/layer/{site}",
    )
    assert [step for _, step, _ in answer] == [0, 1, 2]
    fractions = np.array(BASIS_POINTS) / 10_000
    for _, _, points in answer:
        assert [basis for basis, _ in points] == list(BASIS_POINTS)
        expected = np.quantile(kept_values(ACTIVATIONS[name]), fractions)
        np.testing.assert_allclose([value for _, value in points], expected, rtol=1e-6)


@pytest.mark.basic("fast")
def test_without_finite_values_the_page_still_has_its_data(server):
    run = "all_nan/covariate_shift"
    answer = server.get(
        "/data/plugin/distributions/distributions", run=run, tag="activations/layer/input"
    )
    assert all(value == 0 for _, _, points in answer for _, value in points)
    (_, _, share), *_ = server.get(
        "/data/plugin/scalars/scalars", run=run, tag="non_finite/layer/input"
    )
    assert share == 1.0


@pytest.mark.basic("fast")
def test_every_scalar_and_the_layout_are_served(server):
    run = "normal/covariate_shift"
    served = server.get("/data/plugin/scalars/tags")[run]
    assert set(served) == {f"{m}/layer/{s}" for m in SCALARS for s in tags.SITES} | COST
    assert "15th percentile" in served["percentile_15/layer/input"]["description"]
    (category,) = server.get("/data/plugin/custom_scalars/layout")["category"]
    assert category["title"] == CATEGORY
    assert [chart["title"] for chart in category["chart"]] == ["layer output", "layer input"]


@pytest.mark.basic("*fast*")
@pytest.mark.parametrize("name", ["normal", "all_nan"])
def test_the_picture_and_the_table_are_served(server, name):
    run = f"{name}/covariate_shift"
    path = "/data/plugin/images/"
    assert set(server.get(f"{path}tags")[run]) == {catalogue.HEAT_MAP}
    (drawn,) = server.get(f"{path}images", run=run, tag=catalogue.HEAT_MAP, sample=0)
    query = dict(urllib.parse.parse_qsl(drawn["query"]))
    with Image.open(io.BytesIO(server.fetch(f"{path}individualImage", **query))) as image:
        assert (drawn["step"], image.format) == (2, "PNG")
        image.load()
    path = "/data/plugin/text/"
    told = {catalogue.COST, catalogue.LAYERS, catalogue.SETTINGS, catalogue.WORST_LAYERS}
    assert set(server.get(f"{path}tags")[run]) == told
    (table,) = server.get(f"{path}text", run=run, tag=catalogue.WORST_LAYERS)
    moved = "0" if name == "normal" else "nan"
    for site in tags.SITES:
        row = rf"<td>layer {site}</td>\s*<td>{moved}</td>"
        assert re.search(row, table["text"]), table
    (table,) = server.get(f"{path}text", run=run, tag=catalogue.COST)
    assert re.search(r"<td>3</td>\s*<td>0</td>", table["text"]), table


# --- pages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """The demonstration's own folder, from a short run of the command."""
    log_dir = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "kbn", "demo", "--steps", "200", "--log-dir", str(log_dir)]
    subprocess.run(command, check=True, capture_output=True)
    server = Server(log_dir)
    server.wait_for("/data/plugin/distributions/tags", lambda runs: len(runs) == 2)
    server.wait_for("/data/plugin/scalars/tags", lambda runs: len(runs) == 2)
    yield server
    server.close()


PLACES = [f"sigmoid_{i}/{site}" for i in (1, 2, 3) for site in tags.SITES]
DEEP_TEXT = """element => {
  const text = node => node.nodeType === Node.TEXT_NODE ? node.textContent
    : [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes].map(text).join(" ");
  return text(element).replace(/\\s+/g, " ");
}"""


def deep_text(locator):
    """Return an element's text, that inside shadow roots included."""
    return locator.evaluate(DEEP_TEXT)


def shoot(page, name, tmp_path_factory):
    """Keep what was seen: `KBN_SCREENSHOTS=folder` says where."""
    folder = os.environ.get("KBN_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")
    page.screenshot(path=f"{folder}/{name}.png")


@pytest.mark.thorough
@pytest.mark.browser
@pytest.mark.parametrize("tab", ["histograms", "distributions"])
def test_histograms_and_distributions_show_every_layer_of_both_runs(
    tab, demonstration, page, tmp_path_factory
):
    page.goto(f"{demonstration.url}/#{tab}")
    page.reload()
    page.get_by_text("activations", exact=False).first.wait_for()
    loader = "tf-histogram-loader" if tab == "histograms" else "tf-distribution-loader"
    page.locator(loader).nth(2 * len(PLACES) - 1).wait_for()
    texts = [deep_text(one) for one in page.locator(loader).all()]
    for place in PLACES:
        for run in ("plain", "batch_norm"):
            found = [text for text in texts if place in text and f"{run}/" in text]
            assert len(found) == 1, (place, run, texts)
    page.locator(f"{loader} svg path").nth(2 * len(PLACES) - 1).wait_for(state="attached")
    shoot(page, tab, tmp_path_factory)


@pytest.mark.thorough
@pytest.mark.browser
def test_custom_scalars_show_every_layers_band(demonstration, page, tmp_path_factory):
    page.goto(f"{demonstration.url}/#custom_scalars")
    page.reload()
    page.get_by_text(CATEGORY).first.wait_for()
    charts = page.locator("tf-custom-scalar-margin-chart-card")
    charts.nth(len(PLACES) - 1).wait_for()
    for index in range(len(PLACES)):
        bands = charts.nth(index).locator("svg path.area, svg .area path, svg path[fill]")
        bands.nth(1).wait_for(state="attached")  # two of each place at least
    shoot(page, "custom_scalars", tmp_path_factory)
    for place, chart in zip(PLACES, charts.all(), strict=True):  # in the network's order
        assert place.replace("/", " ") in deep_text(chart)


@pytest.mark.thorough
@pytest.mark.browser
def test_scalars_show_every_layer_of_both_runs(demonstration, page, tmp_path_factory):
    page.goto(f"{demonstration.url}/#timeseries")
    page.goto(f"{demonstration.url}/?darkMode=false#scalars")
    page.reload()
    found = page.locator("tf-scalar-card")
    found.nth(2 * len(PLACES) - 1).wait_for(state="attached")  # the first two groups are open
    for measure in (*SCALARS, catalogue.MONITOR):
        expect(page.get_by_text(measure, exact=True)).to_have_count(1)
    cards = [deep_text(card) for card in found.all()]
    for place in PLACES:
        assert any(f"jeffreys/{place}" in text for text in cards)
    lines = page.locator("tf-scalar-card path.line")
    lines.nth(2 * len(cards) - 1).wait_for(state="attached")
    shoot(page, "scalars", tmp_path_factory)
