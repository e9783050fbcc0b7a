import os
import shutil
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.support.on_backend import BACKEND, ON_EVERY_BACKEND, ON_ONE_BACKEND
from tests.support.replicas import two_logical_devices

two_logical_devices()
# No test asserts a time.
settings.register_profile(
    "kbn", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kbn")


SUMMARY = pytest.StashKey[list]()
MISSING = " is missing"
# A test in a folder of this name has the marker of this name; CONTRIBUTING.md explains the tiers.
TESTS = Path(__file__).parent
TIERS = ("thorough", "static")
# Files that take minutes. They start first, so that all processes end at about the same time.
SLOWEST = ("tab", "contract", "papers", "experiments", "replicas", "any_model", "recalibration",
           "covariate_shift", "oracle", "batch_normalization")  # fmt: skip


def pytest_ignore_collect(collection_path):
    """Leave out files that need another backend."""
    if collection_path.is_dir():
        return None
    name = str(collection_path.relative_to(TESTS))
    other = ON_ONE_BACKEND.get(name, "tensorflow")
    runs = other == BACKEND or (name in ON_EVERY_BACKEND)
    return None if runs else True


def pytest_collection_modifyitems(items):
    for item in items:
        for tier in TIERS:
            if tier in item.path.parent.parts[len(TESTS.parts) :]:
                item.add_marker(tier)
        basic = item.get_closest_marker("basic")
        if basic and not any(fnmatchcase(parameters(item), each) for each in basic.args):
            item.add_marker("thorough")
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in SLOWEST)


def parameters(item):
    """Return the part of a test's name in brackets, with the names of its parameters."""
    return item.name.partition("[")[2].removesuffix("]")


@pytest.fixture
def summary(request):
    """Return a function that adds a line, such as a measured value, to the end of the output."""
    return request.config.stash.setdefault(SUMMARY, []).append


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist)
        session.config.workeroutput["summary"] = session.config.stash.get(SUMMARY, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    lines = getattr(node, "workeroutput", {}).get("summary", [])
    node.config.stash.setdefault(SUMMARY, []).extend(lines)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's own summary
def pytest_terminal_summary(terminalreporter, config):
    done = yield
    for line in config.stash.get(SUMMARY, []):
        terminalreporter.write_line(line)
    skipped = (report.longrepr[-1] for report in terminalreporter.stats.get("skipped", []))
    missing = Counter(reason.split(": ", 1)[-1] for reason in skipped if reason.endswith(MISSING))
    for reason, number in missing.items():
        terminalreporter.write_line(f"NOT TESTED: {number} tests skipped, since {reason}")
    return done


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Use the same seeds and layer names in every test, independent of earlier tests."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    """Return a generator with the same random numbers for every test."""
    return np.random.default_rng(1)


@pytest.fixture
def python(tmp_path):
    """Return a function that runs Python with arguments in a new process, in an empty folder."""

    def run(*arguments, check=True, **environment):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def quick(python, tmp_path):
    """Return a function that runs an experiment on digits and returns its rows of each seed."""
    from tests.support.experiments import runner

    return runner(python, tmp_path)


@pytest.fixture(params=["quick", "kept"])
def size(request):
    """Return which numbers of an experiment `runs` provides."""
    return request.param


@pytest.fixture
def runs(size, quick):
    """Return a function that returns an experiment's rows: of a run now, or of the documents."""
    from tests.support.experiments import kept

    return quick if size == "quick" else kept


def needed(thing: str, present: bool) -> None:
    """If a tool is missing, skip the test, or fail it if the run must be complete."""
    if present:
        return
    if os.environ.get("KBN_TESTS_COMPLETE"):
        pytest.fail(f"{thing}{MISSING}, and KBN_TESTS_COMPLETE is set")
    pytest.skip(f"{thing}{MISSING}")


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    needed("Chromium (apt-get install chromium)", path is not None)
    return path


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    from kbn.demo.datasets import FASHION_MNIST_FOLDER

    needed("Debian's dataset-fashion-mnist", FASHION_MNIST_FOLDER.is_dir())
    return FASHION_MNIST_FOLDER


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page(viewport={"width": 1500, "height": 1900})
    page.set_default_timeout(60_000)
    return page


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """Return a folder with two real runs, plain and normalized, that every callback recorded."""
    from tests.support.two_runs import train

    folder = tmp_path_factory.mktemp("two_runs")
    return folder, train(folder)


@pytest.fixture(scope="session")
def screenshot(tmp_path_factory):
    """Return a function that takes a screenshot, in the folder `KBN_SCREENSHOTS` if it is set."""
    folder = os.environ.get("KBN_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")

    def shoot(page, name):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    return shoot
