"""The Covariate shift tab of a live TensorBoard, in headless Chromium."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from kbn.dashboard.figures import FIGURES
from kbn.records import tags
from tests.support.logs import HOSTILE, hostile_log, write
from tests.support.servers import Server

SHIFT = "wasserstein"
PLUGIN = "/data/plugin/kbn"


def loaded(server, runs):
    """Wait until so many runs are read, and return the state."""
    return server.wait_for(f"{PLUGIN}/state", lambda state: len(state["runs"]) == runs)


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "python_loader"])
def server(request, two_runs):
    server = Server(two_runs[0], f"--load_fast={request.param}")
    loaded(server, 2)
    server.wait_for("/data/plugin/scalars/tags", lambda runs: len(runs) == 7)
    yield server
    server.close()


# What the page does by itself is the same with either loader.
page_alone = pytest.mark.parametrize("server", ["true"], ids=["fast"], indirect=True)


# --- what is served ------------------------------------------------------------------------------


@pytest.mark.basic("*fast*")
def test_the_tab_is_listed_and_active(server):
    entry = server.get("/data/plugins_listing")["kbn"]
    assert entry["tab_name"] == "Covariate shift"
    assert entry["enabled"]
    assert entry["loading_mechanism"]["type"] == "IFRAME"


@pytest.mark.basic("*fast*")
def test_the_state_lists_the_choices(server):
    state = server.get(f"{PLUGIN}/state", measure="nonsense")
    assert state["runs"] == ["normalized", "plain"]
    assert state["measure"] == SHIFT
    assert set(state["sites"]) == set(tags.SITES)
    assert {"sigmoid_1", "dense_1", "norm_1"} <= set(state["layers"])
    assert state["newest"] == {"normalized": 24, "plain": 24}
    one = server.get(f"{PLUGIN}/state", run="plain")
    assert one["runs"] == state["runs"]
    assert "norm_1" not in one["layers"]


@pytest.mark.basic("*fast*")
def test_a_layer_that_another_callback_watched_is_no_mistake(server):
    figure = server.get(f"{PLUGIN}/figure", name="percentiles", layer="dense_1")
    assert figure["layout"]["annotations"][0]["text"] == "Not recorded for dense_1."


@pytest.mark.basic("*fast*")
def test_the_verdict_is_on_the_runs_that_are_chosen(server):
    both = server.get(f"{PLUGIN}/verdict")
    assert any("moved least" in sentence for sentence in both)
    assert all(sentence.startswith("plain") for sentence in server.get(f"{PLUGIN}/verdict",
                                                                       run="plain"))  # fmt: skip


@pytest.mark.basic("*fast*")
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_served(name, server):
    layer = {"ridge": "sigmoid_1", "gradient_shift": "dense_1"}.get(name, "")
    figure = server.get(f"{PLUGIN}/figure", name=name, layer=layer, measure=SHIFT)
    assert figure["data"]
    one = server.get(f"{PLUGIN}/figure", name=name, layer=layer, measure=SHIFT, run="normalized")
    assert one["data"]
    assert name in ("worst_layers", "statistics_gap") or len(one["data"]) < len(figure["data"])


@pytest.mark.basic("*fast*")
@pytest.mark.parametrize(("query", "message"), [
    ({"name": "pie"}, "name must be one of"),
    ({"name": "ridge", "layer": "sigmoid_9"}, "Did you mean one of"),
    ({"name": "ridge"}, "ridge needs a layer. Received: layer=''"),
    ({"name": "heat_map", "measure": "wasserstain"}, "measure must be one of"),
])  # fmt: skip
def test_wrong_requests_get_an_error_message(query, message, server):
    status, answer = server.refused(f"{PLUGIN}/figure", **query)
    assert status == 400
    assert message in answer["error"]


@pytest.mark.basic("*fast*")
def test_scripts_are_served_by_tensorboard_itself(server):
    assert b"export async function render" in server.fetch(f"{PLUGIN}/tab.js")
    assert b".kbn" in server.fetch(f"{PLUGIN}/tab.css")
    assert len(server.fetch(f"{PLUGIN}/plotly.js")) > 1e6


# --- every way in which TensorBoard may start ----------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("options", [
    ["--load_fast=false", "--samples_per_plugin=scalars=5"],
    ["--reload_multifile=true"],
], ids=str)  # fmt: skip
def test_options_of_the_loader(options, two_runs):
    server = Server(two_runs[0], *options)
    loaded(server, 2)
    assert server.get(f"{PLUGIN}/figure", name="heat_map")["data"]
    server.close()


@pytest.mark.thorough
def test_below_a_path(two_runs):
    server = Server(two_runs[0], path_prefix="/tb/here")
    loaded(server, 2)
    assert b"render" in server.fetch(f"{PLUGIN}/tab.js")
    server.close()


@pytest.mark.thorough
def test_several_folders(two_runs, tmp_path):
    write(tmp_path, {SHIFT: {"a": [0, 1]}})
    empty = tmp_path / "events.out.tfevents.1.host"
    empty.touch()
    os.utime(empty, (0, 0))  # what is written just now may look damaged
    spec = f"first:{two_runs[0]},second:{tmp_path}"
    server = Server(None, f"--logdir_spec={spec}", "--load_fast=false")
    state = loaded(server, 3)
    assert state["runs"] == ["first/normalized", "first/plain", "second"]
    assert state["skipped"] == ["events.out.tfevents.1.host: empty"]
    server.close()


@pytest.mark.thorough
@pytest.mark.parametrize("options", [[], ["--load_fast=false"]])
def test_the_folder_of_a_callback_alone(options, tmp_path):
    write(tmp_path, {SHIFT: {"a": [0, 1]}})
    server = Server(tmp_path / "covariate_shift", *options)
    state = server.wait_for(f"{PLUGIN}/state", lambda state: state["runs"])
    assert state["runs"] == ["."]
    assert server.get("/data/plugins_listing")["kbn"]["enabled"]
    server.close()


@pytest.mark.thorough
def test_names_of_folders_may_contain_colons(tmp_path):
    folder = tmp_path / "a:b"
    write(folder, {SHIFT: {"a": [0, 1]}})
    (file,) = folder.rglob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-1])
    os.utime(file, (0, 0))  # it looks settled
    server = Server(None, f"--logdir_spec={folder}")
    state = server.wait_for(f"{PLUGIN}/state", lambda state: state["runs"])
    assert len(state["skipped"]) == 1
    server.close()


@pytest.mark.thorough
def test_without_data_the_tab_is_inactive_and_tensorboard_starts(tmp_path):
    server = Server(tmp_path)
    assert not server.get("/data/plugins_listing")["kbn"]["enabled"]
    state = server.get(f"{PLUGIN}/state")
    assert (state["runs"], state["measure"]) == ([], None)
    assert "CovariateShift" in state["hint"]
    server.close()


WITHOUT = """
import sys
import time
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r} or name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without(tmp_path, *names):
    """Return an environment in which Python does not find these modules."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(names=names))
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), before]))}


@pytest.mark.thorough
def test_neither_tensorflow_nor_keras_is_needed(two_runs, tmp_path):
    env = without(tmp_path, "tensorflow", "keras")
    missing = subprocess.run([sys.executable, "-c", "import keras"], env=env, check=False,
                             capture_output=True)  # fmt: skip
    assert missing.returncode
    server = Server(two_runs[0], env=env)
    loaded(server, 2)
    assert server.get(f"{PLUGIN}/figure", name="heat_map")["data"]
    server.close()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "broken", ["kbn.dashboard.plugin", "kbn.dashboard.folder", "kbn.records.tags"]
)
def test_if_the_plugin_fails_the_other_tabs_are_served(broken, two_runs, tmp_path):
    server = Server(two_runs[0], env=without(tmp_path, broken))
    listing = server.get("/data/plugins_listing")
    assert listing["scalars"]
    assert "kbn" not in listing
    server.wait_for("/data/plugin/scalars/tags", lambda runs: len(runs) == 7)
    assert any("Failed to load plugin" in line for line in server.log)
    server.close()


@pytest.mark.thorough
def test_if_a_figure_fails_the_response_has_the_error(two_runs, tmp_path):
    server = Server(two_runs[0], env=without(tmp_path, "plotly"))
    server.wait_for("/data/plugin/scalars/tags", lambda runs: len(runs) == 7)
    assert server.get("/data/plugins_listing")["kbn"]["enabled"]
    status, answer = server.refused(f"{PLUGIN}/figure", name="heat_map")
    assert status == 500
    assert answer == {"error": "ModuleNotFoundError: No module named 'plotly'"}
    server.close()


# --- in the browser ------------------------------------------------------------------------------


class Tab:
    """The tab as a user sees it."""

    def __init__(self, page, server):
        self.page, self.complaints = page, []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{server.url}/#kbn")
        self.frame = page.frame_locator('iframe[src*="name=kbn"]')

    def _console(self, message):
        # TensorBoard itself complains of deprecated features of its own page.
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location}")

    def wait(self):
        """Wait until everything is drawn."""
        self.frame.locator("body[data-drawn]").wait_for()
        return int(self.frame.locator("body").get_attribute("data-drawn"))

    def after(self, action):
        """Act, and wait until everything was drawn again."""
        before = self.wait()
        action()
        self.page.wait_for_function(
            "before => Number(document.querySelector('iframe[src*=\"name=kbn\"]').contentDocument"
            ".body.dataset.drawn) > before", arg=before,
        )  # fmt: skip

    def figure(self, name):
        return self.frame.locator(f"#{name}")


@pytest.fixture
def opened(browser):
    """Return what opens the tab of a server in a page of its own."""
    contexts = []

    def start(server, routes=None, **settings):
        context = browser.new_context(viewport={"width": 1500, "height": 1400}, **settings)
        for pattern, answer in (routes or {}).items():
            context.route(pattern, answer)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        return Tab(page, server)

    yield start
    for context in contexts:
        context.close()


@pytest.mark.basic("*fast*")
@pytest.mark.browser
def test_every_figure_is_drawn_and_every_control_acts(server, opened, screenshot):
    tab = opened(server)
    tab.wait()
    assert tab.figure("heat_map").locator(".hm image").count() == 2
    for name in FIGURES:
        if name != "ridge":
            assert tab.figure(name).locator(".main-svg").count(), name
    assert "moved least" in tab.figure("verdict").inner_text()
    screenshot(tab.page, "tab")
    # A layer, by the keyboard's way.
    tab.after(lambda: tab.frame.locator("#layer").select_option("sigmoid_2"))
    assert tab.figure("ridge").locator("path.js-fill").count() >= 12
    assert "sigmoid_2" in tab.figure("compare").inner_text()
    assert "sigmoid_2 input, plain" in tab.figure("percentiles").inner_text()
    # Another measure and site.
    tab.after(lambda: tab.frame.locator("#layer").select_option(""))
    tab.after(lambda: tab.frame.locator("#measure").select_option("kurtosis"))
    assert "kurtosis of every layer" in tab.figure("heat_map").inner_text()
    tab.after(lambda: tab.frame.locator("#site").select_option("output"))
    assert "sigmoid_1 output" in tab.figure("heat_map").inner_text()
    # One run alone.
    tab.after(lambda: tab.frame.get_by_label("plain").uncheck())
    assert tab.figure("heat_map").locator(".hm image").count() == 1
    assert "moved least" not in tab.figure("verdict").inner_text()
    tab.after(lambda: tab.frame.get_by_label("plain").check())
    tab.after(lambda: tab.frame.locator("#refresh").click())
    assert tab.complaints == []


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
def test_if_the_script_is_not_loaded_every_figure_shows_an_error(server, opened):
    tab = opened(server, routes={"**/plotly.js": lambda route: route.fulfill(status=500)})
    tab.wait()
    for name in ("heat_map", "worst_layers", "compare", "percentiles"):
        said = tab.figure(name).get_by_role("alert").inner_text()
        assert said == "./plotly.js could not be loaded; see the output of TensorBoard.", name
    assert "moved least" in tab.figure("verdict").inner_text()


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
def test_a_click_on_a_row_opens_the_layer(server, opened):
    tab = opened(server)
    tab.wait()
    rows = tab.figure("heat_map").locator(".nsewdrag").first
    box = rows.bounding_box()
    tab.after(lambda: rows.click(position={"x": box["width"] / 2, "y": box["height"] * 0.75}))
    assert tab.frame.locator("#layer").input_value() == "sigmoid_2"
    assert tab.figure("ridge").locator("path.js-fill").count() >= 12
    assert tab.complaints == []


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
def test_a_layer_that_is_chosen_during_the_first_draw_leaves_nothing_empty(server, opened):
    held, chosen = [], []
    tab = opened(server, routes={
        "**/figure?*": lambda route: route.continue_() if chosen else held.append(route)
    })  # fmt: skip
    tab.frame.locator("#heat_map .plot").wait_for(state="attached")
    tab.frame.locator("#layer").select_option("sigmoid_2")
    chosen.append(True)
    for route in held:
        route.continue_()
    tab.wait()
    for name in FIGURES:
        assert tab.figure(name).locator(".main-svg").count(), name
    assert "sigmoid_2" in tab.figure("compare").inner_text()


# Resolves when the page has drawn so many frames.
FRAMES = """() => new Promise(resolve => {
  let left = 30;
  const next = () => left-- ? requestAnimationFrame(next) : resolve();
  next();
})"""


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
def test_an_answer_that_comes_late_does_not_undo_a_choice(server, opened):
    held = []

    def hold(route):
        if not held and "measure=wasserstein" in route.request.url:
            held.append(route)
        else:
            route.continue_()

    tab = opened(server, routes={"**/state?*": hold})
    tab.wait()
    with tab.page.expect_request("**/state?*measure=wasserstein*"):
        tab.frame.locator("#refresh").click()  # its answer is held
    tab.after(lambda: tab.frame.locator("#measure").select_option("kurtosis"))
    with tab.page.expect_response("**/state?*measure=wasserstein*"):
        held[0].continue_()
    tab.frame.locator("body").evaluate(FRAMES)  # the page has what it needs to go wrong
    assert tab.frame.locator("#measure").input_value() == "kurtosis"
    assert "kurtosis of every layer" in tab.figure("heat_map").inner_text()


@pytest.mark.thorough
@pytest.mark.browser
def test_a_run_that_is_written_anew_to_the_same_step_is_drawn_anew(opened, tmp_path):
    write(tmp_path / "run", {SHIFT: {"a": [0, 1, 1]}})
    server = Server(tmp_path, "--reload_interval=1")
    loaded(server, 1)
    tab = opened(server)
    tab.wait()
    assert "mean shift 1 σ" in tab.figure("verdict").inner_text()
    shutil.rmtree(tmp_path / "run")
    write(tmp_path / "run", {SHIFT: {"a": [0, 9, 9]}})
    tab.frame.locator("#verdict").get_by_text("mean shift 9 σ").wait_for()
    server.close()


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
def test_all_of_it_by_the_keyboard(server, opened):
    tab = opened(server)
    tab.wait()
    tab.frame.locator("#runs, fieldset input").first.focus()
    reached = []
    for _ in range(7):
        reached.append(tab.frame.locator(":focus").get_attribute("id") or "run")
        tab.page.keyboard.press("Tab")
    assert reached == ["run", "run", "measure", "site", "layer", "poll", "refresh"]


@pytest.mark.thorough
@pytest.mark.browser
@page_alone
@pytest.mark.parametrize("dark", [True, False])
def test_dark_and_light_are_legible(dark, server, opened, screenshot):
    tab = opened(server, color_scheme="dark" if dark else "light")
    tab.page.goto(f"{server.url}/?darkMode={str(dark).lower()}#kbn")
    tab.page.reload()
    tab.wait()
    script = """element => {
      const of = (one, name) => getComputedStyle(one)[name].match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
      const tick = document.querySelector("#compare .xtick text");
      return [light(of(document.body, "color")), light(of(document.body, "backgroundColor")),
              light(of(tick, "fill"))];
    }"""
    ink, page, tick = tab.frame.locator("body").evaluate(script)
    assert (ink > page) == dark
    assert min(abs(ink - page), abs(tick - page)) > 0.5
    screenshot(tab.page, f"tab_{'dark' if dark else 'light'}")


TRAINING = """
import sys, time, keras, numpy as np, kbn

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)

x = np.random.default_rng(0).normal(size=(64, 4))
model = keras.Sequential([keras.layers.Dense(4), kbn.BatchNormalization(name="norm")])
model.compile("sgd", "mse")
shift = kbn.callbacks.CovariateShift(sys.argv[1], x, every_steps=10)
model.fit(x, x, batch_size=8, epochs=10_000, verbose=0, callbacks=[shift, Slow()])
"""


@pytest.fixture
def training():
    """Start a training that records into a folder, and goes on until the test ends."""
    processes = []

    def start(folder):
        processes.append(subprocess.Popen([sys.executable, "-c", TRAINING, str(folder)]))

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.thorough
@pytest.mark.browser
def test_the_tab_follows_a_training_while_it_runs(training, opened, tmp_path):
    def records():
        return [int(number) for number in
                re.findall(r"over (\d+) records", tab.figure("verdict").inner_text())]  # fmt: skip

    training(tmp_path / "a")
    server = Server(tmp_path, "--reload_interval=1")
    server.wait_for(f"{PLUGIN}/state", lambda state: state["newest"].get("a", 0) >= 20)
    tab = opened(server)
    tab.wait()
    (before,) = records()
    tab.after(lambda: None)  # nothing but time
    (after,) = records()
    assert after > before
    training(tmp_path / "b")
    tab.frame.get_by_label("b", exact=True).wait_for()
    # And not where it is told not to.
    looks = []
    tab.page.on("request", lambda request: "/state?" in request.url and looks.append(request.url))
    with tab.page.expect_request("**/state?*"):
        pass  # so none is due for as long as lies between two looks
    tab.frame.locator("#poll").uncheck()
    looks.clear()
    for _ in range(12):  # TensorBoard reads once a second, the page would look every fifth one
        newest = server.get(f"{PLUGIN}/state")["newest"]
        server.wait_for(f"{PLUGIN}/state", lambda state, newest=newest: state["newest"] != newest)
        tab.frame.locator("body").evaluate(FRAMES)  # hear of the page's requests
    assert looks == []
    tab.after(lambda: tab.frame.locator("#refresh").click())
    assert tab.figure("heat_map").locator(".hm image").count() == 2
    assert tab.complaints == []
    server.close()


@pytest.mark.thorough
@pytest.mark.browser
def test_an_empty_folder_says_what_to_add_to_the_code(opened, tmp_path, screenshot):
    server = Server(tmp_path)
    tab = opened(server)
    tab.frame.get_by_text("kbn.callbacks.CovariateShift").wait_for()
    screenshot(tab.page, "tab_empty")
    assert tab.complaints == []
    server.close()


@pytest.mark.thorough
@pytest.mark.browser
def test_a_hostile_log_runs_nothing_in_the_tab(opened, tmp_path, screenshot):
    hostile_log(tmp_path)
    server = Server(tmp_path)
    loaded(server, 2)
    tab = opened(server)
    tab.wait()
    for name in HOSTILE:
        tab.after(lambda name=name: tab.frame.locator("#layer").select_option(name))
    assert tab.frame.locator("body").evaluate("window.pwned") is None
    assert tab.page.evaluate("window.pwned") is None
    assert tab.frame.locator("svg a, main img, main script").count() == 0
    assert "empty" in tab.figure("skipped").inner_text()
    screenshot(tab.page, "tab_hostile")
    assert tab.complaints == []
    server.close()


@pytest.mark.thorough
@pytest.mark.browser
def test_ten_runs_of_a_hundred_layers(opened, tmp_path, screenshot):
    values = {f"block_{i // 10}/layer_{i}": [0.0, 0.1 * i, 0.2] for i in range(100)}
    for run in range(10):
        write(tmp_path / f"run_{run}", {SHIFT: values})
    server = Server(tmp_path)
    loaded(server, 10)
    tab = opened(server)
    tab.wait()
    assert tab.figure("heat_map").locator(".hm image").count() == 10
    screenshot(tab.page, "tab_many")
    assert tab.complaints == []
    server.close()
