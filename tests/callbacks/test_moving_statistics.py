"""MovingStatistics against the layer's own numbers, NumPy and Keras's evaluate."""

import re

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import MovingStatistics
from kbn.records import tags
from tests.support import models
from tests.support.on_backend import BACKEND, array, on_tensorflow
from tests.support.warned import user_warnings

X = np.random.default_rng(0).normal(5, 2, (64, 6)).astype("float32")
Y = X.sum(1, keepdims=True)


def values(callback, layer="bn", step=None):
    """Return the measures of a layer at a step, the last one where none is named."""
    rows = [row for row in callback.history if row.layer == layer]
    step = rows[-1].step if step is None else step
    return {row.measure: row.value for row in rows if row.step == step}


def first_layer(layer):
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


LAYERS = {"kbn": kbn.BatchNormalization, "keras": keras.layers.BatchNormalization}


@pytest.mark.basic("0.9-kbn")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_constant_statistics_are_approached_at_the_rate_of_the_momentum(kind, momentum, tmp_path):
    """μ̂_t = μ(1 − mᵗ), σ̂²_t = σ²(1 − mᵗ) + mᵗ: every batch is the whole data."""
    options = {"unbiased_variance": False} if kind == "kbn" else {}
    layer = LAYERS[kind](momentum=momentum, name="bn", **options)
    callback = MovingStatistics(tmp_path, (X, Y), every_steps=1)
    with user_warnings():
        first_layer(layer).fit(X, Y, batch_size=64, epochs=20, verbose=0, callbacks=[callback])
    mean, variance = X.mean(0, dtype="float64"), X.var(0, dtype="float64")
    for step in (0, 1, 7, 20):
        left = momentum**step
        moving_mean, moving_variance = mean * (1 - left), variance * (1 - left) + left
        z = np.abs(mean - moving_mean) / np.sqrt(moving_variance + 1e-3)
        r = 0.5 * np.log((variance + 1e-3) / (moving_variance + 1e-3))
        found = values(callback, step=step)
        assert found["mean_gap"] == pytest.approx(z.mean(), rel=1e-4)
        assert found["mean_gap_worst"] == pytest.approx(z.max(), rel=1e-4)
        assert found["variance_log_ratio"] == pytest.approx(r.mean(), rel=1e-4)
        assert found["variance_log_ratio_worst"] == pytest.approx(r[np.abs(r).argmax()], rel=1e-4)
        training = (X - mean) / np.sqrt(variance + 1e-3)
        inference = (X - moving_mean) / np.sqrt(moving_variance + 1e-3)
        gap = np.sqrt(np.mean((training - inference) ** 2))
        assert found["output_gap"] == pytest.approx(gap, rel=1e-4)


@pytest.mark.parametrize(
    ("momentum", "steps", "left"), [(0.99, 100, 0.366), (0.99, 500, 0.0066), (0.9, 100, 0.00003)]
)
def test_the_remaining_share_of_the_initial_value(momentum, steps, left):
    layer = kbn.BatchNormalization(momentum=momentum)
    batch = np.full((4, 1), 1000.0, "float32")
    for _ in range(steps):
        layer(batch, training=True)
    share = 1 - array(layer.moving_mean)[0] / 1000
    assert share == pytest.approx(left, rel=0.03, abs=5e-6)


@pytest.mark.basic("{'momentum': 0.8}")
@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.8}, {"momentum": None}, {"momentum": 0.8, "zero_debias": True},
     {"renorm": True, "momentum": 0.8}, {"virtual_batch_size": 32, "momentum": 0.8}],
    ids=str,
)  # fmt: skip
def test_steps_to_settle_is_the_number_of_updates_needed(options, tmp_path):
    """Biased first by other data; then the statistics follow batches that are all the same."""
    layer = kbn.BatchNormalization(name="bn", unbiased_variance=False, **options)
    model = first_layer(layer)
    model.fit(1.3 * X[::-1], Y, batch_size=64, epochs=2, verbose=0)
    same = np.concatenate([X[:32], X[:32]])  # virtual batches are the same too
    callback = MovingStatistics(tmp_path, (same, Y), every_steps=1)
    with user_warnings():
        model.fit(same, Y, batch_size=64, epochs=70, shuffle=False, verbose=0, callbacks=[callback])
    rows = [row for row in callback.history if row.measure == "steps_to_settle"]
    start, expected = rows[0].step, rows[0].value
    per_step = 2 if "virtual_batch_size" in options else 1
    settled = [row.step - start for row in rows if row.value == 0]
    assert 0 < expected < 70 * per_step
    if not options.get("renorm"):  # which averages √(σ² + ε): a little slower
        assert settled[0] == -(-expected // per_step)
    else:
        assert settled[0] == pytest.approx(expected, abs=2)


def test_gamma_and_beta_are_recorded_if_the_layer_has_them(tmp_path):
    layer = kbn.BatchNormalization(name="bn", center=False, gamma_initializer="ones")
    callback = MovingStatistics(tmp_path, X)
    with user_warnings():
        first_layer(layer).fit(X, Y, verbose=0, callbacks=[callback])
    found = values(callback)
    assert (found["gamma_mean"], found["gamma_std"]) == (1, 0)
    assert "beta_mean" not in found
    assert {row.layer for row in callback.history} == {"bn", "record"}  # no targets, no losses


def test_losses_are_those_of_both_modes(tmp_path):
    model = models.compiled("functional")
    callback = MovingStatistics(tmp_path, (models.X, models.Y), every_steps=4)
    with user_warnings():
        model.fit(models.X, models.Y, batch_size=8, verbose=0, callbacks=[callback])
    found = values(callback, tags.MODEL)
    inference = model.evaluate(models.X, models.Y, batch_size=60, verbose=0)[0]
    assert found["loss_inference"] == pytest.approx(inference, rel=1e-5)
    gap = found["loss_inference"] - found["loss_training"]
    assert found["loss_gap"] == pytest.approx(gap, rel=1e-5)
    assert abs(gap) > 1e-3


def test_losses_of_regularized_weights(tmp_path):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, kernel_regularizer="l2")(inputs)
    x = kbn.BatchNormalization(name="bn", gamma_regularizer="l1")(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    callback = MovingStatistics(tmp_path, (X, Y), every_steps=2)
    with user_warnings():
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    inference = model.evaluate(X, Y, batch_size=64, verbose=0)
    assert values(callback, tags.MODEL)["loss_inference"] == pytest.approx(inference, rel=1e-5)


class Counted(keras.layers.Layer):
    """Keeps, for each call, whether it was in training mode."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def call(self, x, training=None):
        self.modes.append(training)
        return x


@on_tensorflow
def test_one_run_in_training_mode_gives_the_statistics_and_the_loss(tmp_path):
    counted = Counted()
    model = keras.Sequential([keras.Input((6,)), counted, kbn.BatchNormalization(name="bn")])
    model.compile("sgd", "mse")
    callback = MovingStatistics(tmp_path, (X, X), every_steps=4)
    counted.modes.clear()
    with user_warnings():
        model.fit(X, X, batch_size=16, verbose=0, callbacks=[callback])
    # The probe is traced before fit's own step.
    assert counted.modes[:2] == [True, False]
    assert counted.modes[2:] == [True]
    assert "loss_training" in values(callback, tags.MODEL)


def test_skipped_updates_are_recorded_as_a_share_of_the_batches(tmp_path):
    x = X.copy()
    x[8:16, 2] = np.nan  # one batch of eight
    callback = MovingStatistics(tmp_path, X, every_epochs=1)
    model = first_layer(kbn.BatchNormalization(name="bn"))
    with user_warnings():
        model.fit(x, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    shares = [row.value for row in callback.history if row.measure == "refused_share"]
    assert shares == [0, 1 / 8, 1 / 8]


def test_keras_layer_has_no_share_of_skipped_updates(tmp_path):
    callback = MovingStatistics(tmp_path, X)
    layer = keras.layers.BatchNormalization(name="bn")
    with user_warnings():
        first_layer(layer).fit(X, Y, verbose=0, callbacks=[callback])
    assert "refused_share" not in values(callback)


def test_masked_values_are_not_used(tmp_path, rng):
    inputs = keras.Input((5, 6))
    x = kbn.BatchNormalization(name="bn")(keras.layers.Masking(0.0)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    sequences = rng.normal(3, 1, (8, 5, 6)).astype("float32")
    sequences[:, 3:] = 0
    callback = MovingStatistics(tmp_path, sequences)
    with user_warnings():
        model.fit(sequences, np.ones((8, 5, 1)), verbose=0, callbacks=[callback])
    kept = sequences[:, :3].reshape(-1, 6)
    found = values(callback, step=0)
    assert found["mean_gap"] == pytest.approx(kept.mean(0).mean() / np.sqrt(1.001), rel=1e-5)
    r = 0.5 * np.log((kept.var(0) + 1e-3) / 1.001)
    assert found["variance_log_ratio"] == pytest.approx(r.mean(), rel=1e-4)


def test_one_warning_says_what_is_wrong_and_what_to_do(tmp_path):
    callback = MovingStatistics(tmp_path, X, every_steps=6)
    with user_warnings() as texts:
        model = first_layer(kbn.BatchNormalization(name="bn"))
        model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert len(texts) == 1
    found = values(callback, step=6)  # the last record of the first epoch
    for part in (
        "At step 6, inference will be off: the moving statistics of 'bn'",
        f"The means differ by {found['mean_gap']:.2g} standard deviations",
        f"{np.exp(2 * found['variance_log_ratio']):.2g} times the moving variance",
        f"statistics need about {found['steps_to_settle']:.0f} more updates",
        "kbn.recalibrate(model, data)", "a lower momentum", "a larger batch",
    ):  # fmt: skip
        assert part in texts[0]


def test_there_is_no_warning_before_the_first_step(tmp_path):
    """Every moving statistic is off then."""
    callback = MovingStatistics(tmp_path, X)
    with user_warnings() as texts:
        model = first_layer(kbn.BatchNormalization(name="bn"))
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    assert texts == []
    assert values(callback, step=0)["mean_gap"] > 1


def test_settled_statistics_cause_no_warning(tmp_path):
    callback = MovingStatistics(tmp_path, X, every_epochs=1)
    with user_warnings() as texts:
        model = first_layer(kbn.BatchNormalization(name="bn", momentum=0.5))
        model.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    assert texts == []
    assert values(callback)["steps_to_settle"] <= 8


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (
            lambda: keras.Sequential([keras.layers.Dense(1)]),
            {},
            "The model has no batch normalization layers: say which layers to watch. Layers of the "
            "model: dense",
        ),
        (
            models.functional,
            {"layers": ["bn", "relu"]},
            "watches only batch normalization layers. These are not: relu. "
            "Received: layers=['bn', 'relu']",
        ),
    ],
)
def test_other_layers_than_batch_normalization_raise(build, options, message, tmp_path):
    model = build()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, Y, verbose=0, callbacks=[MovingStatistics(tmp_path / "log", X, **options)])
    assert not (tmp_path / "log").exists()


def test_the_warning_about_an_average_of_all_batches_suggests_a_momentum(tmp_path):
    callback = MovingStatistics(tmp_path, X + 9, every_epochs=1)
    with user_warnings() as texts:
        model = first_layer(kbn.BatchNormalization(name="bn", momentum=None))
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    assert len(texts) == 1
    assert "Recalibrate(data) to fit, or use a momentum such as 0.9 or a larger batch." in texts[0]


def test_a_probe_of_a_few_samples_causes_no_warning(tmp_path):
    few = MovingStatistics(tmp_path / "few", X[:15], every_epochs=1)
    enough = MovingStatistics(tmp_path / "enough", X[:16], every_epochs=1)
    for callback, number in ((few, 0), (enough, 1)):
        with user_warnings() as texts:
            model = first_layer(kbn.BatchNormalization(name="bn"))
            model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
        assert len(texts) == number


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs one step at a time")
def test_the_last_call_of_an_epoch_counts_the_batches_that_it_has(tmp_path):
    """5 batches of which 3 make a call: of every batch that is refused the share is 1."""
    callback = MovingStatistics(tmp_path, X, every_epochs=1)
    model = keras.Sequential([keras.Input((6,)), kbn.BatchNormalization(name="bn")])
    model.compile("sgd", "mse", steps_per_execution=3)
    single = np.ones((5, 6))
    with user_warnings():
        model.fit(single, single, batch_size=1, epochs=2, verbose=0, callbacks=[callback])
    shares = [row.value for row in callback.history if row.measure == "refused_share"]
    assert shares == [0, 1, 1]
