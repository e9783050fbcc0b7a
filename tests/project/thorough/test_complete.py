"""The report of a test run about tools that are missing."""

import os
import subprocess
import sys

import pytest

MISSING = {
    "Chromium (apt-get install chromium) is missing":
        "tests/dashboard/test_report.py::test_a_hostile_log_runs_nothing",
    "Debian's dataset-fashion-mnist is missing":
        "tests/demo/test_demo.py::test_fashion_mnist_from_debians_folder",
}  # fmt: skip
# Every process of the run executes this code when it starts.
WITHOUT_FASHION_MNIST = """
import pathlib, kbn.demo.datasets
kbn.demo.datasets.FASHION_MNIST_FOLDER = pathlib.Path("nowhere")
"""


@pytest.fixture(params=[False, True], ids=["skips", "complete"])
def run(request, tmp_path):
    """Run the tests; return whether the run must be complete, its exit code and its output."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_FASHION_MNIST)
    env = {name: value for name, value in os.environ.items()
           if name != "KBN_TESTS_COMPLETE" and not name.startswith("PYTEST")}  # fmt: skip
    env |= {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    if request.param:
        env["KBN_TESTS_COMPLETE"] = "1"
    options = ["-p", "no:cacheprovider", "-n", "2"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *MISSING.values()], env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    return request.param, done.returncode, done.stdout


def test_missing_tools_are_listed_in_the_last_lines_or_fail(run):
    must_be_complete, code, said = run
    if must_be_complete:
        assert code == 1
        assert all(f"{reason}, and KBN_TESTS_COMPLETE is set" in said for reason in MISSING)
        assert "2 errors" in said.splitlines()[-1]
    else:
        assert code == 0
        told = {f"NOT TESTED: 1 tests skipped, since {reason}" for reason in MISSING}
        assert told <= set(said.splitlines()[-3:])
