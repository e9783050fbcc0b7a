import subprocess
import sys

import pytest

import kbn
from kbn.records.catalogue import RUNS

HEAVY = "{'keras', 'tensorflow', 'tensorboard', 'plotly', 'numpy', 'PIL', 'pandas'}"
CALLBACKS = sorted([*(run.callback for run in RUNS), "Recalibrate", "watching"])


@pytest.mark.parametrize("module", ["kbn", "kbn.callbacks"])
def test_import_loads_neither_keras_nor_tensorflow(module, python):
    code = f"import sys, {module}; print(sorted({HEAVY} & set(sys.modules)))"
    assert python("-c", code).stdout.strip() == "[]"


def test_public_names():
    assert dir(kbn) == sorted(kbn.__all__) == ["BatchNormalization", "callbacks", "recalibrate"]
    assert dir(kbn.callbacks) == kbn.callbacks.__all__ == CALLBACKS
    assert {"CovariateShift", "GradientShift", "LossLandscape", "MovingStatistics"} < set(CALLBACKS)
    with pytest.raises(AttributeError, match="module 'kbn' has no attribute 'nonsense'"):
        _ = kbn.nonsense


# `.ci/run` checks the same in a real environment without any backend.
@pytest.mark.parametrize(
    "name", ["kbn.BatchNormalization", *(f"kbn.callbacks.{name}" for name in CALLBACKS)]
)
def test_a_missing_backend_is_named_in_one_line(name, python):
    code = f"import sys; sys.modules['tensorflow'] = None; import kbn; {name}"
    last = python("-c", code, check=False).stderr.strip().splitlines()[-1]
    problem = "Keras uses the backend tensorflow, which is not installed"
    assert f"{problem}: pip install tensorflow-cpu" in last


def test_the_command_without_a_backend_is_one_line_and_exit_code_2(python):
    code = (
        "import sys; sys.modules['tensorflow'] = None;"
        "from kbn.__main__ import main; sys.exit(main(['demo']))"
    )
    done = python("-c", code, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "kbn demo: Keras uses the backend tensorflow" in done.stderr


def test_importing_kbn_writes_and_prints_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import kbn.callbacks"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
