import itertools
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

import kbn
from tests.support import models
from tests.support.on_backend import BACKEND, array, assert_close, assert_equal, on_tensorflow, tf
from tests.support.replicas import mirrored

IMAGES = np.random.default_rng(0).normal(2, 3, (1000, 4, 4, 2)).astype("float32")


UNTAPPED = layers.Layer.__call__


def stacked(norm=kbn.BatchNormalization, **options):
    return keras.Sequential(
        [
            layers.Input((4, 4, 2)),
            norm(**options),
            layers.Conv2D(3, 3, activation="relu"),
            norm(**options),
            layers.Flatten(),
            layers.Dense(5),
            norm(**options),
        ]
    )


def norms(model):
    return [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]


def state(model):
    return [array(v) for v in model.variables]


def statistics(model):
    names = "moving_mean", "moving_variance"
    return [array(getattr(layer, name)) for layer in norms(model) for name in names]


def in_batches(x, sizes):
    """Return a data set of batches of these sizes."""
    return Parts(np.split(x, np.cumsum(sizes)[:-1]))


class Parts(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


@pytest.mark.parametrize("unbiased", [True, False])
def test_population_statistics_are_those_of_all_values(unbiased):
    model = keras.Sequential(
        [layers.Input((4, 4, 2)), kbn.BatchNormalization(unbiased_variance=unbiased)]
    )
    kbn.recalibrate(model, IMAGES, verbose=False)
    exact = IMAGES.astype("float64")
    assert_close(statistics(model)[0], exact.mean((0, 1, 2)), rtol=1e-6)
    assert_close(statistics(model)[1], exact.var((0, 1, 2), ddof=int(unbiased)), rtol=1e-6)


def test_population_statistics_do_not_depend_on_the_batches():
    reference = None
    shuffled = np.random.default_rng(1).permutation(IMAGES)
    for x, sizes in ((IMAGES, [100] * 10), (IMAGES, [7, 993]), (shuffled, [100] * 10)):
        keras.utils.set_random_seed(0)
        model = stacked()
        kbn.recalibrate(model, in_batches(x, sizes), verbose=False)
        reference = reference or statistics(model)
        for value, wanted in zip(statistics(model), reference, strict=True):
            assert_close(value, wanted, rtol=1e-6, atol=1e-6)


def test_each_layer_is_measured_after_recalibrated_ones():
    model = stacked(epsilon=1e-12, unbiased_variance=False)
    kbn.recalibrate(model, IMAGES, verbose=False)
    for layer in norms(model):
        outputs = keras.Model(model.inputs, layer.output).predict(IMAGES, verbose=0)
        axes = tuple(range(outputs.ndim - 1))
        assert_close(outputs.mean(axes), 0, atol=1e-4)
        assert_close(outputs.var(axes), 1, atol=1e-4)


def test_the_papers_estimator_is_algorithm_2():
    model = stacked(unbiased_variance=False)
    sizes = [100] * 9 + [60, 39, 1]
    kbn.recalibrate(model, in_batches(IMAGES, sizes), estimator="paper", verbose=False)
    batches = np.split(IMAGES, np.cumsum(sizes)[:-1])
    means, variances, counts = [], [], []
    for batch in batches:
        # As in training: each layer normalizes with its batch.
        flat = keras.Sequential(model.layers[:-1])
        with keras.StatelessScope():
            x = array(flat(batch, training=True))
        means.append(x.mean(0))
        variances.append(x.var(0, ddof=1) if len(batch) > 1 else np.zeros(5))
        counts.append(len(batch))
    several = [n if n > 1 else 0 for n in counts]
    last = norms(model)[-1]
    assert_close(last.moving_mean, np.average(means, 0, counts), rtol=1e-4, atol=1e-5)
    assert_close(last.moving_variance, np.average(variances, 0, several), rtol=1e-4)
    plain = [batch.reshape(-1, 2).astype("float64") for batch in batches]
    weights = [len(x) for x in plain]
    variance = np.average([x.var(0, ddof=1) for x in plain], 0, weights)
    assert_close(statistics(model)[1], variance, rtol=1e-6)


def test_the_papers_estimator_draws_dropout_anew_for_every_batch():
    x = np.ones((399, 1), "float32")
    model = keras.Sequential([layers.Input((1,)), layers.Dropout(0.5), kbn.BatchNormalization()])
    kbn.recalibrate(model, x, estimator="paper", batch_size=3, verbose=False)
    # One mask for all batches of 3 would give a mean of 0, 2/3, 4/3 or 2.
    assert array(norms(model)[0].moving_mean)[0] == pytest.approx(1, abs=0.2)


@pytest.mark.basic("functional-*", "subclassed-paper")
@pytest.mark.parametrize("estimator", ["population", "paper"])
@pytest.mark.parametrize("kind", models.BUILDERS)
def test_nothing_but_the_statistics_changes(kind, estimator):
    model = models.compiled(kind)
    model.fit(models.X, models.Y, verbose=0)
    flags = [layer.trainable for layer in model._flatten_layers()]
    ids = {id(v) for x in norms(model) for v in x.non_trainable_variables}
    kept = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in ids]
    before, moved = [array(v) for v in kept], statistics(model)
    kbn.recalibrate(model, models.X, estimator=estimator, verbose=False)
    for variable, value in zip(kept, before, strict=True):
        assert_equal(array(variable), value, err_msg=variable.path)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    for value, old in zip(statistics(model), moved, strict=True):
        assert (value != old).any()
    assert layers.Layer.__call__ is UNTAPPED


def test_keras_layers_are_recalibrated_too_and_keep_their_biased_variance():
    model = keras.Sequential([layers.Input((4, 4, 2)), layers.BatchNormalization()])
    kbn.recalibrate(model, IMAGES, verbose=False)
    assert_close(statistics(model)[1], IMAGES.astype("float64").var((0, 1, 2)), rtol=1e-6)


def test_masked_values_are_not_used(rng):
    x = rng.normal(3, 2, (60, 5, 3)).astype("float32")
    x[::2, 3:] = 0
    mask = (x != 0).any(-1)
    model = keras.Sequential([layers.Input((5, 3)), layers.Masking(), kbn.BatchNormalization()])
    kbn.recalibrate(model, x, batch_size=7, verbose=False)
    assert_close(statistics(model)[0], x[mask].mean(0), rtol=1e-5)
    assert_close(statistics(model)[1], x[mask].var(0, ddof=1), rtol=1e-5)


def test_frozen_layers_stay():
    class FineTuned(keras.Model):
        def __init__(self):
            super().__init__()
            self.base, self.frozen, self.free = (kbn.BatchNormalization() for _ in range(3))
            self.frozen.trainable = False

        def call(self, x, training=False):
            x = self.frozen(self.base(x, training=False), training=training)
            return self.free(x, training=training)

    model = FineTuned()
    model(IMAGES)
    kbn.recalibrate(model, IMAGES, verbose=False)
    for layer, stays in ((model.base, True), (model.frozen, True), (model.free, False)):
        assert (array(layer.moving_mean) == 0).all() == stays


def test_a_layer_called_several_times_pools_its_calls(rng):
    one, two = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    norm = kbn.BatchNormalization()
    model = keras.Model({"a": one, "b": two}, layers.Add()([norm(one), norm(two)]))
    data = {"a": rng.normal(0, 1, (50, 3)), "b": rng.normal(9, 2, (50, 3))}
    kbn.recalibrate(model, data, batch_size=8, verbose=False)
    values = np.concatenate(list(data.values()))
    assert_close(norm.moving_mean, values.mean(0), rtol=1e-5)
    assert_close(norm.moving_variance, values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"momentum": None}, {"zero_debias": True}, {"renorm": True}], ids=str
)
def test_training_continues_from_the_measured_statistics(options):
    layer = kbn.BatchNormalization(**options)
    model = keras.Sequential([layers.Input((4, 4, 2)), layer])
    kbn.recalibrate(model, IMAGES[:500], verbose=False)
    measured = array(layer.moving_variance)
    layer(IMAGES[500:] * 3, training=True)
    if options.get("momentum", 0) is None:
        wanted = (
            IMAGES[:500].reshape(-1, 2).var(0, ddof=1),
            IMAGES[500:].reshape(-1, 2).var(0, ddof=1),
        )
        wanted = (wanted[0] + 9 * wanted[1]) / 2
    else:
        new = 9 * IMAGES[500:].reshape(-1, 2).var(0, ddof=1)
        wanted = 0.99 * measured + 0.01 * new
        if "renorm" in options:
            wanted = (0.99 * np.sqrt(measured + 1e-3) + 0.01 * np.sqrt(new + 1e-3)) ** 2 - 1e-3
    assert_close(layer.moving_variance, wanted, rtol=1e-4)


class Batched(keras.utils.PyDataset):
    num_batches = 10

    def __getitem__(self, index):
        return IMAGES[index * 100 : index * 100 + 100], np.zeros(100)


DATA = {
    "array": lambda: IMAGES,
    "x and y": lambda: (IMAGES, np.zeros(1000)),
    "tensor": lambda: keras.ops.convert_to_tensor(IMAGES),
    "PyDataset": Batched,
}
if BACKEND == "tensorflow":
    DATA["data set"] = lambda: tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(1000))).batch(
        77
    )


@pytest.mark.parametrize("kind", DATA)
def test_takes_what_fit_takes(kind):
    model = stacked()
    kbn.recalibrate(model, DATA[kind](), verbose=False)
    assert_close(statistics(model)[0], IMAGES.mean((0, 1, 2)), rtol=1e-5)


def test_steps_limit_the_data_and_an_iterator_is_read_once():
    model = stacked()
    kbn.recalibrate(model, IMAGES, steps=2, batch_size=10, verbose=False)
    assert_close(statistics(model)[0], IMAGES[:20].mean((0, 1, 2)), rtol=1e-5)
    endless = (IMAGES[:50] for _ in itertools.count())
    kbn.recalibrate(model, endless, steps=3, estimator="paper", verbose=False)
    assert_close(statistics(model)[0], IMAGES[:50].mean((0, 1, 2)), rtol=1e-5)


REFUSED = [
    (
        {"estimator": "median"},
        "estimator must be one of 'population', 'paper'. Received: estimator",
    ),
    ({"steps": 0}, "steps must be an integer of at least 1. Received: steps=0"),
    ({"batch_size": 2.5}, "batch_size must be an integer of at least 1. Received: batch_size=2.5"),
    ({"verbose": 1}, "verbose must be True or False. Received: verbose=1"),
    ({"data": 3}, "data must be an array, (x, y)"),
    (
        {"data": (1, 2, 3, 4)},
        "A tuple of data means (x, y) or (x, y, sample_weight). Received:",
    ),
    (
        {"data": Batched(), "batch_size": 3},
        "this data already comes in batches. Received: batch_siz",
    ),
    ({"data": iter([IMAGES])}, "Received: an iterator, for 3 layers"),
    ({"data": iter([])}, "The data has no batch"),
    ({"data": [IMAGES, IMAGES[:3]]}, "the same number of samples. Received: [3, 1000]"),
    (
        {"data": IMAGES * 1e25},
        "and their variance, must be finite. Nothing was changed. Received: inf or NaN in",
    ),
    ({"steps": 99}, "The data ended after 32 batches. Received: steps=99"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_wrong_arguments_raise_and_change_nothing(arguments, message):
    model = stacked()
    before = state(model)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        kbn.recalibrate(model, **{"data": IMAGES, "verbose": False, **arguments})
    for value, old in zip(state(model), before, strict=True):
        assert_equal(value, old)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            keras.Sequential([layers.Input((4, 4, 2)), layers.Dense(1)]),
            "has no batch normalization",
        ),
        (keras.Sequential([kbn.BatchNormalization()]), "not built. Train it or call it first"),
        (
            keras.Sequential(
                [layers.Input((4, 4, 2)), layers.TimeDistributed(kbn.BatchNormalization(name="in"))]
            ),
            "Freeze them to leave them out. Received: ['in']",
        ),
    ],
    ids=["none", "unbuilt", "loop"],
)
def test_models_that_cannot_be_measured_raise(model, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.recalibrate(model, IMAGES, verbose=False)


@pytest.mark.parametrize("estimator", ["population", "paper"])
def test_everything_comes_back_if_the_data_raises_or_is_not_finite(estimator):
    class Failing(Batched):
        def __getitem__(self, index):
            if index == 9 and array(norms(model)[0].moving_mean)[0] != 0:
                raise OSError("the disk is gone")  # while the second layer is measured
            if index == 9 and estimator == "paper":
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    model = stacked()
    before = state(model)
    poisoned = IMAGES.copy()
    poisoned[5, 0, 0, 1] = np.inf
    cases = (
        (Failing(), OSError, "the disk is gone"),
        (poisoned, ValueError, "inf or NaN in the inputs of layer"),
    )
    for data, error, message in cases:
        with pytest.raises(error, match=message):
            kbn.recalibrate(model, data, estimator=estimator, verbose=False)
        for value, old in zip(state(model), before, strict=True):
            assert_equal(value, old)


@pytest.mark.parametrize(
    ("data", "options", "seen"),
    [
        (np.ones((1, 2)), {}, 1),
        (np.ones((8, 2)), {"batch_size": 1, "estimator": "paper"}, 8),
    ],
    ids=["one sample", "batches of one"],
)
def test_data_without_a_variance_raises(data, options, seen):
    model = keras.Sequential([layers.Input((2,)), kbn.BatchNormalization(name="norm")])
    message = f"Received: {seen} in all for layer 'norm'"
    with pytest.raises(ValueError, match=message):
        kbn.recalibrate(model, data, verbose=False, **options)
    assert_equal(statistics(model), [[0, 0], [1, 1]])


def test_data_of_padding_alone_raises():
    model = keras.Sequential([layers.Input((5, 2)), layers.Masking(), kbn.BatchNormalization()])
    with pytest.raises(ValueError, match="Received: 0 in all for layer"):
        kbn.recalibrate(model, np.zeros((8, 5, 2)), verbose=False)


def test_keyword_arguments_in_any_order_are_measured():
    class Swapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = kbn.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(mask=x > 2, inputs=x, training=training)

    model = Swapped()
    model(IMAGES)
    kbn.recalibrate(model, IMAGES, verbose=False)
    kept = [IMAGES[..., c][IMAGES[..., c] > 2].mean() for c in range(2)]
    assert_close(statistics(model)[0], kept, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["population", "paper"])
def test_a_model_that_python_must_run_is_measured_eagerly(estimator):
    class Branching(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = kbn.BatchNormalization()

        def call(self, x, training=None):
            if float(keras.ops.max(x)) > 1e9:  # no trace can tell
                return x
            return self.norm(x, training=training)

    model = Branching()
    model.compile("sgd", "mse", run_eagerly=True)
    model(IMAGES)
    kbn.recalibrate(model, IMAGES, estimator=estimator, verbose=False)
    assert_close(statistics(model)[0], IMAGES.mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces nothing")
def test_every_layer_is_traced_once_and_once_more_for_an_uneven_batch(caplog):
    traces = []

    class Traced(layers.Layer):
        def call(self, x):
            traces.append(x.shape[0])
            return x

    model = keras.Sequential([Traced(), *stacked().layers])
    model(IMAGES[:2])
    traces.clear()
    kbn.recalibrate(model, IMAGES, batch_size=100, verbose=False)
    assert traces == [100] * 4  # to find the layers, and one for each of three
    traces.clear()
    kbn.recalibrate(model, IMAGES, batch_size=300, verbose=False)
    assert traces == [300, *[300, 100 if BACKEND == "jax" else None] * 3]
    assert "retracing" not in caplog.text


@on_tensorflow
def test_works_under_a_strategy_on_all_replicas():
    strategy = mirrored()
    with strategy.scope():
        model = stacked()
    kbn.recalibrate(model, IMAGES, verbose=False)
    outside = statistics(model)
    with strategy.scope():
        kbn.recalibrate(model, IMAGES, verbose=False)
    assert_close(outside[0], IMAGES.mean((0, 1, 2)), rtol=1e-5)
    for value, old in zip(statistics(model), outside, strict=True):
        assert_close(value, old, rtol=1e-5)
    for variable in norms(model)[2].non_trainable_variables:
        assert_equal(*(array(v) for v in variable.value.values))


def test_progress_is_shown_over_all_passes(capsys):
    kbn.recalibrate(stacked(), IMAGES, batch_size=100)
    assert "30/30" in capsys.readouterr().out
    kbn.recalibrate(stacked(), in_batches(IMAGES, [500, 500]), estimator="paper")
    assert re.search(r"2/(2|Unknown)", capsys.readouterr().out)


def small_cnn():
    model = keras.Sequential([layers.Input((8, 8, 1))])
    for filters in (16, 32, 32):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(kbn.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.Flatten())
    model.add(layers.Dense(32, use_bias=False))
    model.add(kbn.BatchNormalization())
    model.add(layers.ReLU())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


@pytest.mark.thorough
def test_raises_validation_accuracy_after_training_on_batches_of_four(summary):
    x, y = load_digits(return_X_y=True)
    x, gains, before = x.reshape(-1, 8, 8, 1) / 16, [], []
    for seed in range(5):
        keras.utils.set_random_seed(seed)
        order = np.random.default_rng(seed).permutation(len(x))
        train, validation = order[:1400], order[1400:]
        model = small_cnn()
        model.fit(x[train], y[train], batch_size=4, epochs=2, verbose=0)
        accuracy = []
        for _ in range(2):
            accuracy.append(model.evaluate(x[validation], y[validation], verbose=0)[1])
            kbn.recalibrate(model, x[train], verbose=False)
        before.append(accuracy[0])
        gains.append(accuracy[1] - accuracy[0])
    summary(
        f"recalibrate, CNN on digits at batch 4, seeds 0 to 4: validation accuracy "
        f"{np.mean(before):.3f} to {np.mean(before) + np.mean(gains):.3f}, "
        f"gain per seed {', '.join(f'{gain:+.3f}' for gain in gains)}"
    )
    assert np.mean(gains) > 0.005
    assert min(gains) > -0.02  # 8 of 397 samples; one backend or seed differs from another


class Seen(keras.callbacks.Callback):
    """The mean that validation saw, and that which the epoch ended with."""

    def __init__(self):
        super().__init__()
        self.in_validation, self.at_end = [], []

    def on_test_begin(self, logs=None):
        self.in_validation.append(array(norms(self.model)[0].moving_mean))

    def on_epoch_end(self, epoch, logs=None):
        self.at_end.append(array(norms(self.model)[0].moving_mean))


def trained(callbacks, **options):
    model = keras.Sequential(
        [layers.Input((4, 4, 2)), kbn.BatchNormalization(), layers.Flatten(), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    y = np.zeros((1000, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(IMAGES, y, batch_size=100, callbacks=callbacks, verbose=0, **options)
    return model, [str(w.message) for w in caught if w.category is UserWarning]


def test_the_callback_measures_before_validation():
    seen = Seen()
    trained(
        [kbn.callbacks.Recalibrate(IMAGES), seen],
        epochs=2, validation_data=(IMAGES[:10], np.zeros((10, 1))),
    )  # fmt: skip
    for value in (*seen.in_validation, *seen.at_end):
        assert_close(value, IMAGES.mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.basic("2")
@pytest.mark.parametrize("every_epochs", [1, 2, 7])
def test_the_callback_follows_its_cadence_and_ends_with_the_last_epoch(every_epochs):
    seen = Seen()
    trained([kbn.callbacks.Recalibrate(IMAGES, every_epochs=every_epochs), seen], epochs=5)
    exact = [np.allclose(mean, IMAGES.mean((0, 1, 2)), rtol=1e-5) for mean in seen.at_end]
    assert exact == [epoch % every_epochs == 0 or epoch == 5 for epoch in range(1, 6)]


def test_the_callback_measures_when_training_is_stopped_early():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model, _ = trained([kbn.callbacks.Recalibrate(IMAGES, every_epochs=5), Stop()], epochs=10)
    assert_close(statistics(model)[0], IMAGES.mean((0, 1, 2)), rtol=1e-5)


def test_the_callback_changes_nothing_that_is_learned():
    weights = []
    for callbacks in ([], [kbn.callbacks.Recalibrate(IMAGES)]):
        keras.utils.set_random_seed(0)
        model, _ = trained(callbacks, epochs=3)
        weights.append([array(v) for v in model.trainable_variables])
    for value, wanted in zip(*weights, strict=True):
        assert_equal(value, wanted)


def test_the_callback_survives_data_that_raises():
    class Failing(Batched):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    model, told = trained([kbn.callbacks.Recalibrate(Failing())], epochs=2)
    assert len(told) == 2
    assert "Recalibrate failed after epoch 1. The statistics stay as they were" in told[0]
    assert "OSError: the disk is gone" in told[0]
    assert np.isfinite(statistics(model)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"every_epochs": 0},
            "every_epochs must be an integer of at least 1. Received: every_epoch",
        ),
        ({"steps": 0}, "Received: steps=0"),
        ({"estimator": 1}, "Received: estimator=1"),
        ({"data": iter([IMAGES])}, "so an iterator is not supported"),
        ({"data": None}, "data must be an array, (x, y)"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_the_callback_refuses_wrong_arguments_at_once(arguments, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        kbn.callbacks.Recalibrate(**{"data": IMAGES, **arguments})


def test_the_callback_refuses_a_model_without_normalization():
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no batch normalization layer to measure"):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[kbn.callbacks.Recalibrate(IMAGES)])
