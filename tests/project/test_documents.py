"""README blocks, docstring examples and `examples/` run unchanged."""

import doctest
import importlib
import re

import pytest

from tests.support import ROOT
from tests.support.on_backend import BACKEND

# The experiments run in tests/examples/test_experiments.py.
EXAMPLES = [
    ROOT / "examples" / f"{name}.py" for name in ("covariate_shift", "momentum_and_variance")
]
DOCUMENTS = ("README.md", "callbacks/README.md")
BLOCKS = {
    f"{name}:{number}": block
    for name in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    )
}
FIRST = "README.md:0"


def wrote_records(printed, folder):
    assert list((folder / "runs/digits/covariate_shift").glob("events.*"))


def printed_bessels_correction(printed, folder):
    assert "1.142857" in printed


def printed_ratios_of_one(printed, folder):
    ratios = [float(x) for x in re.findall(r"[\d.]+", printed.splitlines()[-1])]
    assert ratios == pytest.approx([1] * 4, abs=1e-4)


def printed_a_verdict(printed, folder):
    assert "mean shift" in printed


def recorded_with_all_of_them(printed, folder):
    assert len(list((folder / "runs/mine").iterdir())) == 4
    assert "share of training time" in printed  # the cost
    assert re.search(r"step +layer +site +measure +value", printed)  # the table


def recorded_in_a_loop(printed, folder):
    assert printed.splitlines()[-1] == "[0, 4, 8, 12, 16, 20, 24]"
    assert list((folder / "runs/loop/covariate_shift").glob("*tfevents*"))


# Block -> a check of its results. If a block is missing here, its test fails.
EXPECTED = {
    FIRST: wrote_records,
    "README.md:1": printed_bessels_correction,
    "README.md:2": printed_ratios_of_one,
    "README.md:3": printed_a_verdict,
    "callbacks/README.md:0": recorded_with_all_of_them,
    "callbacks/README.md:1": recorded_in_a_loop,
}
AFTER_THE_FIRST = ("README.md:3",)  # it reads what the first block wrote


@pytest.mark.basic("README.md:0")
@pytest.mark.parametrize("name", sorted({*BLOCKS, *EXPECTED}))
def test_python_blocks_run(name, python, tmp_path):
    if BACKEND != "tensorflow" and "import tensorflow" in BLOCKS[name]:
        pytest.skip("the block is for TensorFlow")
    if name in AFTER_THE_FIRST:
        python("-c", BLOCKS[FIRST])
    done = python("-W", "error::UserWarning", "-c", BLOCKS[name])
    EXPECTED[name](done.stdout, tmp_path)


def test_the_first_block_has_at_most_fifteen_lines():
    assert len([line for line in BLOCKS[FIRST].splitlines() if line]) <= 15


@pytest.mark.parametrize(
    "name",
    [
        "kbn.layers.batch_normalization",
        "kbn.callbacks.covariate_shift",
        "kbn.callbacks.gradient_shift",
        "kbn.callbacks.loss_landscape",
        "kbn.callbacks.moving_statistics",
        "kbn.callbacks.recalibrate",
        "kbn.callbacks.training_loop",
        "kbn.dashboard",
        "kbn.tools.recalibration",
    ],
)
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.thorough
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
