"""The scripts in examples/several_machines/, as a user starts them: two processes."""

import re

import pytest

from tests.support import ROOT, events
from tests.support.on_backend import BACKEND

SCRIPTS = {"tensorflow": "tensorflow_workers", "jax": "jax_processes", "torch": "torch_processes"}


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
WAYS = {"script": ([], []), "torchrun": (TORCHRUN, []), "Ray Train": ([], ["--ray"])}
WAYS = WAYS if BACKEND == "torch" else {"script": WAYS["script"]}


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
def test_two_processes(way, python, tmp_path):
    script = ROOT / f"examples/several_machines/{SCRIPTS[BACKEND]}.py"
    before, after = WAYS[way]
    printed = python(*before, str(script), "--epochs", "2", *after).stdout
    found = re.findall(r"process (\d): (validation accuracy .*?), records (\[\d, \d\])", printed)
    (_, one, recorded), (_, other, nothing) = sorted(set(found))  # Ray prints some lines twice
    assert one == other  # accuracy, and the moving mean to six digits
    assert (recorded, nothing) == ("[4, 4]", "[0, 0]")
    layer = "net/bn" if BACKEND == "tensorflow" else "bn"
    run = tmp_path / "runs" / BACKEND / "moving_statistics"
    assert list(events.series(run, f"mean_gap/{layer}/probe")) == [0, 10, 20, 30]
