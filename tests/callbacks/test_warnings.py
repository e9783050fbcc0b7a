"""No warning of kbn's making, from any module.

The settings of pytest ignore DeprecationWarnings that NumPy attributes to Keras, although kbn's
call caused them. So these tests turn every warning into an error.
"""

import warnings

import keras
import numpy as np
import pytest

import kbn
import kbn.dashboard
from kbn import backend
from tests.support import ROOT, models
from tests.support.callbacks import CALLBACKS
from tests.support.on_backend import BACKEND, assert_equal, tf

X, Y = models.X, models.Y


@pytest.fixture
def strict():
    """Turn warnings of every kind and module into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An old plotly warns of its own templates.
        warnings.filterwarnings("ignore", r"\*scattermapbox\* is deprecated", DeprecationWarning)
        if BACKEND != "tensorflow":  # Keras reads its own variables in a way that NumPy warns of
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def network():
    return keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(4),
        kbn.BatchNormalization(momentum=0.5, renorm=True, name="bn"), keras.layers.ReLU(),
        keras.layers.Dense(1),
    ])  # fmt: skip


FITS = {
    "graph": {}, "eager": {"run_eagerly": True}, "several steps": {"steps_per_execution": 2},
    "schedule": {"optimizer": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9))},
    "scaled loss": {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01))},
}  # fmt: skip


if BACKEND == "torch":
    del FITS["several steps"]  # Keras runs one step at a time there
CASES = [("float32", fit) for fit in FITS]
CASES += [(policy, "graph") for policy in ("mixed_float16", "mixed_bfloat16", "bfloat16")]


@pytest.mark.basic("float32-schedule")
@pytest.mark.parametrize(("policy", "fit"), CASES)
def test_no_callback_warns_or_loses_a_record(policy, fit, strict, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    options = {"optimizer": lambda: keras.optimizers.SGD(0.01), **FITS[fit]}
    model.compile(**{**options, "optimizer": options["optimizer"]()}, loss="mse")
    made = [callback(tmp_path, (X, Y), every_steps=1) for callback in CALLBACKS.values()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At step", UserWarning)  # advice on the statistics
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0,
                  callbacks=[*made, kbn.callbacks.Recalibrate(X)])  # fmt: skip
    assert [callback.lost_records for callback in made] == [0] * len(made)
    assert all(len(callback.history) for callback in made)


def test_tools_and_the_dashboard_do_not_warn(strict, tmp_path):
    layer = kbn.BatchNormalization(momentum=0.5, renorm=True, zero_debias=True)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile("sgd", "mse")
    shift = kbn.callbacks.CovariateShift(tmp_path / "log", X, layers="*", every_steps=1)
    model.fit(X, X, verbose=0, callbacks=[shift])
    kbn.recalibrate(model, X, verbose=False)
    assert layer.skipped_updates.tolist() == [0] * 6
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(again(X), model(X))
    board = kbn.dashboard.load(tmp_path / "log")
    assert board.verdict()
    board.heat_map()


VALUES = {
    "variable of Keras": (lambda: keras.Variable([1.5, 2.0]), [1.5, 2.0], "float32"),
    "bfloat16": (lambda: keras.Variable([1.5, 2.0], dtype="bfloat16"), [1.5, 2.0], "bfloat16"),
    "tensor in bfloat16": (lambda: keras.ops.cast(1.5, "bfloat16"), 1.5, "bfloat16"),
    "integers": (lambda: keras.ops.convert_to_tensor([1, 2], "int32"), [1, 2], "int32"),
    "array": (lambda: np.array([True]), [True], "bool"),
}
if BACKEND == "tensorflow":
    VALUES |= {
        "variable": (lambda: tf.Variable([1.5, 2.0]), [1.5, 2.0], "float32"),
        "sparse": (lambda: tf.sparse.from_dense([0.0, 2.0]), [0.0, 2.0], "float32"),
    }


@pytest.mark.parametrize("name", VALUES)
def test_arrays_of_tensors_and_variables(name, strict):
    make, expected, dtype = VALUES[name]
    found = backend.numpy_of(make())
    assert isinstance(found, np.ndarray)
    assert (found.tolist(), found.dtype.name) == (expected, dtype)


ALL = """
import numpy as np, keras, kbn
from tests.support.callbacks import CALLBACKS
x, y = np.random.default_rng(0).normal(size=(64, 3)).astype("f4"), np.ones((64, 1), "f4")
model = keras.Sequential([
    keras.Input((3,)), kbn.BatchNormalization(momentum=0.0), keras.layers.Dense(1)
])
model.compile("adam", "mse")
made = [callback("log", (x, y), every_steps=1) for callback in CALLBACKS.values()]
model.fit(x, y, verbose=0, callbacks=made)
print("LOST", [callback.lost_records for callback in made])
"""


@pytest.mark.thorough
@pytest.mark.parametrize("filters", ["error", "error::DeprecationWarning"])
def test_a_process_in_which_warnings_are_errors(filters, python):
    printed = python("-W", filters, "-c", ALL, PYTHONPATH=str(ROOT)).stdout
    assert printed.endswith("LOST [0, 0, 0, 0]\n")
    done = python("-W", filters, "-m", "kbn", "report", "log", "-o", "a.html", PYTHONPATH=str(ROOT))
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_warning_shows_the_users_line(tmp_path):
    model = network()
    model.compile("sgd", "mse")
    callback = kbn.callbacks.MovingStatistics(tmp_path, X + 20, every_steps=1)
    with pytest.warns(UserWarning, match="inference will be off") as warned:
        model.fit(X, Y, batch_size=20, verbose=0, callbacks=[callback])
    found = [one for one in warned if one.category is UserWarning]
    with pytest.warns(DeprecationWarning, match="refused_updates is deprecated") as old:
        _ = model.get_layer("bn").refused_updates
    assert {one.filename for one in (*found, *old)} == {__file__}
