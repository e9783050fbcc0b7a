import contextlib
import json
import os
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2

import kbn
from kbn import tags
from kbn.callbacks import CovariateShift
from kbn.tags import Tap
from tests import events, models

X, Y = models.X, models.Y
ALL = {tags.HISTOGRAM, *tags.MEASURES}


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 1, "verbose": 0, **options}  # 8 steps an epoch
    return model.fit(X, Y, callbacks=list(callbacks), **options)


@contextlib.contextmanager
def user_warnings():
    """Collect the texts of UserWarnings; unlike `pytest.warns`, leave other filters as they are."""
    texts = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        yield texts
        texts += [str(w.message) for w in warned if w.category is UserWarning]


def steps(shift):
    return sorted({row.step for row in shift.history})


@pytest.mark.parametrize("kind", models.BUILDERS)
def test_history_equals_the_event_file(kind, tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=3)
    fit(models.compiled(kind), shift)
    run = tmp_path / tags.RUN_DIRECTORY
    written = {
        (step, tag): float(value)
        for tag in events.tags(run)
        if tag.split("/")[0] in tags.MEASURES
        for step, value in events.series(run, tag).items()
    }
    kept = {(r.step, tags.tag(r.measure, Tap(r.layer, r.site))): r.value for r in shift.history}
    assert written == kept
    assert steps(shift) == [0, 3, 6]
    assert {tag.split("/")[0] for tag in events.tags(run)} == {*ALL, "custom_scalars__config__"}
    assert len(os.listdir(run)) == 1


def test_what_is_written_is_what_the_layers_compute(tmp_path):
    """Against the weights at that step and plain NumPy, for inputs and outputs."""
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16], layers=["dense", "bn"], every_steps=4)
    kernels, affines = [], []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kernels.append(
            model.get_layer("dense").kernel.numpy()
        )
    )
    affine = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: affines.append(
            model.get_layer("bn").get_weights()[:2]
        )
    )
    fit(model, shift, keep, affine)
    before = X[:16].astype("float64") @ kernels[3]
    after = X[:16].astype("float64") @ kernels[7]
    values = {row[1:4]: row.value for row in shift.history if row.step == 8}
    assert values["bn", "input", "mean"] == pytest.approx(after.mean(), abs=1e-6)
    assert values["bn", "input", "std"] == pytest.approx(after.std(), rel=1e-5)
    moved = np.abs(np.sort(after, 0) - np.sort(before, 0)).mean(0) / before.std(0)
    assert values["bn", "input", "wasserstein"] == pytest.approx(moved.mean(), rel=1e-4)
    assert values["dense", "input", "wasserstein"] == 0
    assert values["dense", "output", "percentile_85"] == pytest.approx(
        np.quantile(after, 0.85), rel=1e-5
    )
    normal = (after - after.mean(0)) / np.sqrt(
        after.var(0) + 1e-3
    )  # batch statistics: training mode
    gamma, beta = affines[7]
    assert values["bn", "output", "std"] == pytest.approx((gamma * normal + beta).std(), rel=1e-5)


@pytest.mark.parametrize("kind", models.BUILDERS)
def test_while_no_weight_changes_nothing_moves(kind, tmp_path):
    """Dropout is on, and its masks are the same in every record."""
    model = models.BUILDERS[kind]()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    layers = ["twice", "dropout*"] if kind == "shared" else "*"
    shift = CovariateShift(tmp_path, X[:16], layers=layers, every_steps=1)
    fit(model, shift)
    assert len(steps(shift)) == 9
    moved = {row.value for row in shift.history if row.measure in (tags.WASSERSTEIN, tags.JEFFREYS)}
    assert moved == {0.0}
    dropped = [r.value for r in shift.history if r.measure == "zeros" and "dropout" in r.layer]
    assert max(dropped) > 0.1


def test_first_reference_measures_from_the_first_record(tmp_path):
    both = [
        CovariateShift(tmp_path / r, X[:16], every_steps=1, reference=r)
        for r in ("previous", "first")
    ]
    fit(models.compiled("functional"), *both, epochs=4)
    last = [
        [r.value for r in shift.history if r[1:4] == ("bn", "input", "wasserstein")]
        for shift in both
    ]
    assert last[0][1] == last[1][1]
    assert last[1][-1] > 2 * last[0][-1]


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        ({}, [0]),
        ({"every_steps": 5}, [0, 8, 12, 16]),
        ({"every_epochs": 1}, [0, 8, 16]),
        ({"on_steps": [1, 2, 13]}, [0, 4, 16]),
    ],
)
def test_cadences_with_four_steps_per_execution(cadence, expected, tmp_path):
    shift = CovariateShift(tmp_path, X[:16], **cadence)
    fit(models.compiled("functional", steps_per_execution=4), shift, epochs=2)
    assert steps(shift) == expected


def test_a_second_fit_goes_on_at_the_right_step(tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(model, shift)
    fit(model, shift)
    assert steps(shift) == [0, 4, 8, 12, 16]
    model.compile("sgd", "mse")  # a new optimizer counts from 0
    fit(model, shift)
    assert steps(shift) == [0, 4, 8, 12, 16, 20, 24]
    run = tmp_path / tags.RUN_DIRECTORY
    assert list(events.series(run, "mean/bn/input")) == steps(shift)


def test_a_resumed_model_starts_at_its_step(tmp_path):
    model = models.compiled("functional")
    fit(model)
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(model, shift)
    assert steps(shift) == [8, 12, 16]


def test_another_model_is_refused(tmp_path):
    shift = CovariateShift(tmp_path, X[:16])
    fit(models.compiled("functional"), shift)
    with pytest.raises(ValueError, match=r"already recorded another model into .*covariate_shift"):
        fit(models.compiled("functional"), shift)


def test_shared_layers_and_several_tensors_have_numbered_taps(tmp_path):
    inputs = keras.Input((6,))
    twice = keras.layers.Dense(6, name="twice")
    once = twice(inputs)
    outputs = keras.layers.Dense(1)(keras.layers.Add(name="add")([once, twice(once)]))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X[:16], layers=["twice", "add"])
    fit(model, shift)
    assert list(dict.fromkeys(row[1:3] for row in shift.history)) == [
        ("twice:0", "input"), ("twice:0", "output"), ("twice:1", "input"), ("twice:1", "output"),
        ("add", "input:0"), ("add", "input:1"), ("add", "output"),
    ]  # fmt: skip


def test_channels_first_layers_are_measured_by_their_channels(tmp_path):
    model = keras.Sequential(
        [kbn.BatchNormalization(axis=1, name="bn"), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 3, 4, 4)).astype("float32")
    shift = CovariateShift(tmp_path, x)
    model.fit(x, np.zeros((32, 1)), verbose=0, callbacks=[shift])
    sketch = shift._references[Tap("bn", "input")]
    np.testing.assert_allclose(sketch.mean, x.mean((0, 2, 3)), atol=1e-6)


def test_the_layout_shows_each_place_once_as_a_band(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], layers=["dense", "bn"], sites="input")
    fit(models.compiled("functional"), shift, epochs=3)
    (value,) = events.series(tmp_path / tags.RUN_DIRECTORY, "custom_scalars__config__").values()
    layout = layout_pb2.Layout.FromString(value.item())
    charts = [chart for category in layout.category for chart in category.chart]
    assert [chart.title for chart in charts] == ["bn input", "dense input"]  # page reverses
    (band,) = charts[0].margin.series
    assert [band.lower, band.value, band.upper] == [
        f"percentile_{p}/bn/input" for p in (15, 50, 85)
    ]


def test_histograms_can_be_left_out(tmp_path):
    fit(models.compiled("functional"), CovariateShift(tmp_path, X[:16], histograms=False))
    written = events.tags(tmp_path / tags.RUN_DIRECTORY)
    assert not [tag for tag in written if tag.startswith(tags.HISTOGRAM)]


class StopError(Exception):
    pass


def test_when_training_raises_the_file_is_complete_and_closed(tmp_path):
    def stop(batch, logs):
        if batch == 5:
            raise StopError

    shift = CovariateShift(tmp_path, X[:16], every_steps=1)
    model = models.compiled("functional")
    with contextlib.suppress(StopError):
        fit(model, shift, keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    run = tmp_path / tags.RUN_DIRECTORY
    still_open = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [path for path in still_open if str(run) in path]
    assert list(events.series(run, "mean/bn/input")) == [0, 1, 2, 3, 4, 5, 6]
    fit(model, shift)
    assert steps(shift) == list(range(15))


def test_when_the_exception_is_kept_the_file_is_complete_all_the_same(tmp_path):
    def stop(batch, logs):
        if batch == 5:
            raise StopError

    shift = CovariateShift(tmp_path, X[:16], every_steps=1)
    with pytest.raises(StopError) as kept:  # keeps the frames of fit, as a notebook does
        fit(
            models.compiled("functional"),
            shift,
            keras.callbacks.LambdaCallback(on_train_batch_end=stop),
        )
    assert kept.value.__traceback__ is not None
    run = tmp_path / tags.RUN_DIRECTORY
    assert list(events.series(run, "mean/bn/input")) == steps(shift) == [0, 1, 2, 3, 4, 5, 6]


def test_the_file_is_flushed_at_every_epochs_end(tmp_path):
    read = []
    shift = CovariateShift(tmp_path, X[:16], every_steps=8)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: read.append(
            list(events.series(tmp_path / tags.RUN_DIRECTORY, "mean/bn/input"))
        )
    )
    fit(models.compiled("functional"), shift, look, epochs=2)
    assert read == [[0, 8], [0, 8, 16]]


def test_a_failing_record_warns_once_and_training_goes_on(tmp_path):
    class Failing(CovariateShift):
        def record(self, step):
            if step in (2, 4):
                raise OSError(28, "No space left on device")
            return super().record(step)

    shift = Failing(tmp_path, X[:16], every_steps=2)
    model = models.compiled("functional")
    with user_warnings() as texts:
        fit(model, shift)
    assert len(texts) == 2
    assert "could not record at step 2" in texts[0]
    assert "No space left on device" in texts[0]
    assert texts[1] == "Failing lost 2 records in all."
    assert (steps(shift), shift.lost_records) == ([0, 6, 8], 2)
    assert int(model.optimizer.iterations.numpy()) == 8


def test_a_removed_log_folder_does_not_end_training(tmp_path):
    remove = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: shutil.rmtree(tmp_path / "log", ignore_errors=True)
    )
    model = models.compiled("functional")
    fit(model, CovariateShift(tmp_path / "log", X[:16], every_steps=1), remove, epochs=2)
    assert int(model.optimizer.iterations.numpy()) == 16


REFUSED = [
    ({"every_steps": 0}, ValueError, "Received: every_steps=0"),
    ({"every_steps": 5, "every_epochs": 1}, ValueError, "Received: every_steps=5, every_epochs=1"),
    ({"reference": "last"}, ValueError, "one of 'previous', 'first'. Received: reference='last'"),
    ({"sites": "middle"}, ValueError, "one of 'input', 'output'. Received: sites='middle'"),
    ({"sites": None}, TypeError, "Received: sites=None"),
    ({"reference": np.ones(2)}, ValueError, "one of 'previous', 'first'"),
    ({"sites": ()}, ValueError, "Received: sites=()"),
    ({"layers": 7}, TypeError, "Received: 7"),
    ({"max_samples": 0}, ValueError, "Received: max_samples=0"),
    ({"probe_size": 2.5}, TypeError, "Received: probe_size=2.5"),
    ({"histograms": "yes"}, TypeError, "Received: histograms='yes'"),
    ({"probe_data": X[:0]}, ValueError, "at least one sample. Received: probe_data=ndarray"),
    ({"log_dir": None}, TypeError, "log_dir must be a path. Received: log_dir=None"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_wrong_arguments_are_told_at_construction(options, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        CovariateShift(**{"log_dir": tmp_path / "log", "probe_data": X, **options})
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_log_dir_that_is_a_file_is_told(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"log_dir must be a folder, and '.*/file' is a file"):
        CovariateShift(tmp_path / "file" / below, X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": "conv*"},
            "Received: 'conv*'. Layers of the model: dense, bn, relu, dropout, head.",
        ),
        (
            {"probe_data": X[:, :5]},
            "expected shape=(None, 6), found shape=(60, 5) Received: probe_data of shape (60, 5)",
        ),
        ({"probe_data": {"a": X, "b": X}}, "The model cannot be run on probe_data"),
    ],
)
def test_what_the_model_refuses_is_told_before_the_first_step(options, message, tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(**{"log_dir": tmp_path / "log", "probe_data": X, **options})
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, shift)
    assert int(model.optimizer.iterations.numpy()) == 0
    assert not (tmp_path / "log").exists()
    assert keras.layers.Layer.__call__.__name__ == "__call__"


def test_the_reason_is_told_where_keras_says_the_place_first(tmp_path):
    class Picky(keras.layers.Layer):
        def call(self, x):
            if x.shape[0] == 13:
                raise ValueError("thirteen samples are unlucky")
            return x

    inputs = keras.Input((6,))
    model = keras.Model(inputs, kbn.BatchNormalization()(Picky()(inputs)))
    model.compile("sgd", "mse")
    message = r"^The model cannot be run on probe_data: .*thirteen samples are unlucky.* Received"
    with pytest.raises(ValueError, match=message) as told:
        model.fit(X, X, verbose=0, callbacks=[CovariateShift(tmp_path / "log", X[:13])])
    assert "Exception encountered" not in str(told.value)


def test_a_refused_model_leaves_the_callback_free_for_the_right_one(tmp_path):
    shift = CovariateShift(tmp_path, X[:, :5])
    with pytest.raises(ValueError, match="cannot be run on probe_data"):
        fit(models.compiled("functional"), shift)
    model = keras.Sequential([kbn.BatchNormalization(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X[:, :5], Y, verbose=0, callbacks=[shift])
    assert steps(shift) == [0]


def test_an_activation_of_unknown_shape_is_refused_by_name(tmp_path):
    class Positive(keras.layers.Layer):
        def call(self, x):
            return tf.boolean_mask(x, x[:, 0] > 0)

        def compute_output_shape(self, shape):
            return (None, *shape[1:])

    model = keras.Sequential([Positive(), kbn.BatchNormalization(name="bn"), keras.layers.Dense(1)])
    model.compile("sgd", lambda y, p: tf.reduce_sum(p))
    with pytest.raises(ValueError, match=re.escape("'bn', whose input has shape (None, 6)")):
        fit(model, CovariateShift(tmp_path / "log", X))


class OwnOptimizer(keras.Model):
    """Trains with an optimizer that `model.optimizer` knows nothing of, as GANs do."""

    def __init__(self):
        super().__init__()
        self.layer, self.own = kbn.BatchNormalization(name="bn"), keras.optimizers.SGD()

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(data[0]))
        variables = self.trainable_variables
        self.own.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def test_steps_that_stand_still_are_told(tmp_path):
    model = OwnOptimizer()
    model.compile()
    with user_warnings() as texts:
        fit(model, CovariateShift(tmp_path, X, every_steps=1), epochs=3)
    assert len(texts) == 1
    assert "stood at 0 for a whole epoch" in texts[0]


def test_a_model_without_an_optimizer_is_refused_before_anything_is_written(tmp_path):
    model = OwnOptimizer()
    model.compile(optimizer=None)
    with pytest.raises(ValueError, match=r"Received: model\.optimizer=None"):
        fit(model, CovariateShift(tmp_path / "log", X))
    assert not (tmp_path / "log").exists()


def test_an_earlier_run_in_the_folder_is_told(tmp_path):
    fit(models.compiled("functional"), CovariateShift(tmp_path, X))
    with user_warnings() as texts:
        fit(models.compiled("functional"), CovariateShift(tmp_path, X))
    assert [re.search(r"holds an earlier run", text) is not None for text in texts] == [True]


def test_weights_changed_between_fits_are_seen_at_the_next_start(tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16])
    fit(model, shift)
    model.set_weights([2 * weight for weight in model.get_weights()])
    fit(model, shift)
    assert steps(shift) == [0, 8]


def test_fits_in_threads_leave_nothing_attached(tmp_path):
    call = keras.layers.Layer.__call__
    shifts = [CovariateShift(tmp_path / str(i), X[:16], every_steps=4) for i in range(4)]
    ready = [models.compiled("functional") for _ in shifts]
    with ThreadPoolExecutor() as pool:
        list(pool.map(fit, ready, shifts))
    assert keras.layers.Layer.__call__ is call
    assert all(steps(shift) == [0, 4, 8] for shift in shifts)


def test_inputs_given_by_keyword_are_seen(tmp_path):
    class ByKeyword(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = kbn.BatchNormalization(name="bn")

        def call(self, x, training=False):
            return self.bn(training=training, inputs=x)

    model = ByKeyword()
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X[:16])
    fit(model, shift)
    assert {row.site for row in shift.history} == {"input", "output"}


def test_a_layer_inside_a_loop_is_refused_by_name(tmp_path):
    inputs = keras.Input((4, 6))
    outputs = keras.layers.RNN(keras.layers.LSTMCell(3, name="cell"), name="rnn")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(outputs))
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path / "log", np.ones((8, 4, 6)), layers=["rnn", "rnn/cell"])
    with pytest.raises(ValueError, match=re.escape("inside a loop: rnn/cell. Name others")):
        model.fit(np.ones((8, 4, 6)), np.ones((8, 1)), verbose=0, callbacks=[shift])
    shift = CovariateShift(tmp_path / "log", np.ones((8, 4, 6)))  # names none: the rest is watched
    with user_warnings() as texts:
        model.fit(np.ones((8, 4, 6)), np.ones((8, 1)), verbose=0, callbacks=[shift])
    assert [text.partition("inside a loop: ")[2] for text in texts] == ["rnn/cell."]
    assert {row.layer for row in shift.history} == {"dense"}


def test_history_is_plain_python(tmp_path):
    shift = CovariateShift(tmp_path, X[:16])
    fit(models.compiled("functional"), shift)
    json.dumps(shift.history)
    row = shift.history[0]
    assert [type(value) for value in row] == [int, str, str, str, float]
    assert row._fields == ("step", "layer", "site", "measure", "value")


def test_mixed_precision_and_gradient_accumulation(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.functional()
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
        shift = CovariateShift(tmp_path, X[:16], every_steps=2)
        fit(model, shift)
    finally:
        keras.config.set_dtype_policy("float32")
    assert steps(shift) == [0, 2, 4]  # updates, not batches
    assert all(np.isfinite(row.value) for row in shift.history)
