"""The packages in setup.cfg, and the linter's rule about TensorFlow."""

import configparser
import subprocess
import sys

import pytest

from tests.support import ROOT


def folders():
    """Return the installed package name of every folder with `__init__.py`."""
    found = set()
    for top, package in (("kbn", "kbn"), ("callbacks", "kbn.callbacks")):
        for path in (ROOT / top).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT / top).parts
            found.add(".".join([package, *parts]))
    return found


def listed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    options = settings["options"]
    places = dict(line.split(" = ") for line in options["package_dir"].split("\n") if line)
    return options["packages"].split(), places


def test_setup_cfg_lists_every_package():
    """A package that is missing there would be missing from the wheel, without an error."""
    packages, _ = listed()
    assert packages == sorted(packages)
    assert set(packages) == folders()


def test_setup_cfg_has_the_folder_of_each_package():
    packages, places = listed()
    for package in packages:
        inside = package.split(".")
        expected = "/".join(inside[1:] if inside[1:2] == ["callbacks"] else inside)
        if package == "kbn" or expected.startswith("callbacks"):
            assert places[package] == expected
        assert (ROOT / expected / "__init__.py").is_file(), package


SNIPPETS = {
    "import": "import tensorflow as tf",
    "import of a part": "import tensorflow.nest",
    "from": "from tensorflow import nest",
    "from a part": "from tensorflow.python import eager",
}


@pytest.mark.parametrize("place", ["kbn/ops", "kbn/layers", "callbacks", "callbacks/probing"])
@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_the_linter_refuses_tensorflow_outside_its_backend(snippet, place):
    assert "TID251" in linted(snippet, f"{place}/snippet.py")


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_the_linter_accepts_tensorflow_in_its_backend(snippet):
    for place in ("kbn/backend/tensorflow", "tests/ops", "examples", "benchmarks", "docs"):
        assert "TID251" not in linted(snippet, f"{place}/snippet.py")


def linted(text, path):
    """Return the output of the linter for `text` as the file `path`."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    done = subprocess.run(
        [*command, "--stdin-filename", path, "-"], input=text, text=True, cwd=ROOT,
        capture_output=True,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    return done.stdout
