"""README blocks, docstring examples and `examples/` run as they stand."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

# The experiments run in tests/examples/test_experiments.py.
EXAMPLES = [
    ROOT / "examples" / f"{name}.py" for name in ("covariate_shift", "momentum_and_variance")
]
PAGES = ("CONTRIBUTING.md", "docs/results.md", "docs/how-to-read.md")
DOCUMENTS = ["README.md", "callbacks/README.md"]
BLOCKS = [
    pytest.param(block, id=f"{name}:{number}")
    for name in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, python):
    if "dashboard.load(" in block:  # of what the first block wrote
        python("-c", BLOCKS[0].values[0])
    done = python("-W", "error::UserWarning", "-c", block)
    if "moving_variance.numpy() / x.var(axis=0))" in block:
        assert "1.142857" in done.stdout
    if "kbn.recalibrate(" in block:
        ratios = [float(x) for x in re.findall(r"[\d.]+", done.stdout.splitlines()[-1])]
        assert ratios == pytest.approx([1] * 4, abs=1e-4)


def test_the_first_block_has_ten_to_fifteen_lines_and_writes_records(python, tmp_path):
    block = BLOCKS[0].values[0]
    assert len([line for line in block.splitlines() if line]) <= 15
    python("-c", block)
    assert list((tmp_path / "runs/digits/covariate_shift").glob("events.*"))


@pytest.mark.parametrize(
    "name",
    [
        "kbn.layers.batch_normalization",
        "kbn.callbacks.covariate_shift",
        "kbn.callbacks.gradient_shift",
        "kbn.callbacks.loss_landscape",
        "kbn.callbacks.moving_statistics",
        "kbn.callbacks.recalibrate",
        "kbn.dashboard",
        "kbn.tools.recalibration",
    ],
)
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example, python, tmp_path):
    done = python(str(example), "--steps", "60")
    if example.name == "momentum_and_variance.py":
        ends = dict(
            re.findall(r"^(.*?) +moving variance after 60 batches: (\S+)", done.stdout, re.M)
        )
        assert float(ends["momentum 0.9, biased (Keras)"]) == pytest.approx(0.75, abs=0.1)
        assert float(ends["momentum 0.9, unbiased"]) == pytest.approx(1, abs=0.1)
        assert float(ends["momentum None, unbiased"]) == pytest.approx(1, abs=0.05)
        assert (tmp_path / "runs/momentum_and_variance.html").stat().st_size > 1e6
    else:
        moved = [float(x) for x in re.findall(r"moved (\S+) σ", done.stdout)]
        assert len(moved) == 6
        assert list((tmp_path / "runs/cnn/plain/covariate_shift").glob("events.*"))


def test_every_tag_is_described_in_the_callbacks_table():
    from kbn.records import catalogue

    text = (ROOT / "callbacks/README.md").read_text()
    for name in catalogue.measures():
        assert re.search(rf"^\|.*`{name}`.*\|", text, re.M), name


def test_the_makefile_has_the_readmes_targets():
    for target in set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text())):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_no_placeholder_is_left():
    for name in (*DOCUMENTS, *PAGES, "CHANGELOG.md"):
        assert not re.search(r"@@|TODO|FIXME|XXX", (ROOT / name).read_text()), name


def test_pictures_and_links_of_the_documents_exist():
    for name in (*DOCUMENTS, *PAGES):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / Path(name).parent / link).exists(), (name, link)


def test_version_stands_in_one_place():
    import kbn

    assert sys.modules["kbn"] is kbn
    assert "version = attr: kbn.__version__" in (ROOT / "setup.cfg").read_text()
