import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
from hypothesis import settings

from tests.replicas import two_logical_devices

two_logical_devices()
settings.register_profile("kbn", deadline=None, print_blob=True)
settings.load_profile("kbn")


SUMMARY = pytest.StashKey[list]()


@pytest.fixture
def summary(request):
    """Say something in the last lines of the run: what a test measured."""
    return request.config.stash.setdefault(SUMMARY, []).append


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist)
        session.config.workeroutput["summary"] = session.config.stash.get(SUMMARY, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    lines = getattr(node, "workeroutput", {}).get("summary", [])
    node.config.stash.setdefault(SUMMARY, []).extend(lines)


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(SUMMARY, []):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Same seeds and same layer names for every test, whatever ran before it."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    """Let KBN_FUSED force what fused="auto" chooses.

    "off" is the portable path everywhere, "on" the fused kernel wherever nothing forbids it;
    "auto", the default, is as it is.
    """
    from kbn import path

    forced = os.environ.get("KBN_FUSED", "auto")
    assert forced in ("on", "off", "auto")
    obstacle = path._obstacle
    if forced == "off":
        monkeypatch.setattr(path, "_obstacle", lambda *_, **__: "KBN_FUSED=off")
    elif forced == "on":

        def choose(layer, dtype, **situation):
            if layer.fused == "auto" and obstacle(layer, dtype, **situation) is None:
                return path.Path(True, "KBN_FUSED=on")
            return chosen(layer, dtype, **situation)

        chosen = path.choose
        monkeypatch.setattr("kbn.batch_normalization.choose", choose)


@pytest.fixture
def python(tmp_path):
    """Run Python code or arguments in a process of its own, in an empty folder."""

    def run(*arguments, check=True, **environment):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


def needed(thing: str, present: bool) -> None:
    """Skip where a tool is missing; fail where the run claims to be complete."""
    if present:
        return
    if os.environ.get("KBN_TESTS_COMPLETE"):
        pytest.fail(f"{thing} is missing, and KBN_TESTS_COMPLETE is set")
    pytest.skip(f"{thing} is missing")


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    needed("Chromium (apt-get install chromium)", path is not None)
    return path


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    from kbn.datasets import FASHION_MNIST_FOLDER

    needed("Debian's dataset-fashion-mnist", FASHION_MNIST_FOLDER.is_dir())
    return FASHION_MNIST_FOLDER
