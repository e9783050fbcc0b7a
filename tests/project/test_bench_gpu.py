"""`make bench-gpu`, with tiny sizes on the CPU."""

import json
import math
import os

import pytest

from tests.support import ROOT
from tests.support.on_backend import BACKEND

# The CPU alone, so that the tests do the same on a machine with a GPU.
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
               "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}  # fmt: skip


@pytest.mark.thorough
def test_every_part_is_measured(python, tmp_path):
    python("-m", "benchmarks.gpu", "--tiny", "--out", "found", **ENVIRONMENT)
    file = tmp_path / f"found/benchmarks-gpu-{BACKEND}.json"
    rows = json.loads(file.read_text())["rows"]
    by_group = {group: [row for row in rows if row["group"] == group]
                for group in ("error", "identical", "bandwidth", "record", "late")}  # fmt: skip
    assert sum(map(len, by_group.values())) == len(rows)
    assert {len(by_group["bandwidth"]), len(by_group["record"])} == {8, 4}
    assert not by_group["late"]
    layers = {"kbn", "keras", "copy"} | ({"torch"} if BACKEND == "torch" else set())
    for row in by_group["bandwidth"]:
        assert all(0 < row[name] < math.inf for name in layers)
    ours = [row["error"] for row in by_group["error"] if row["name"].startswith("kbn")]
    assert max(ours) < 1e-5
    (fits,) = by_group["identical"]
    assert fits["again"]
    assert fits["watched"]
    assert min(fits["records"]) > 1
    page = file.with_suffix(".md").read_text()
    assert page.count("| 2×3×3×4 |") == 4


@pytest.mark.thorough
def test_without_a_gpu_it_says_so(python):
    done = python("-m", "benchmarks.gpu", check=False, **ENVIRONMENT, KERAS_BACKEND=BACKEND)
    assert done.returncode == 1
    assert f"bench-gpu: {BACKEND} finds no GPU. To try it on a CPU:" in done.stderr
    done = python("-m", "benchmarks.gpu", check=False, **ENVIRONMENT, KERAS_BACKEND="")
    assert done.returncode == 1
    assert "bench-gpu: none of PyTorch, JAX and TensorFlow that are installed here" in done.stderr
