"""GradientShift against known answers, and against weights mixed by hand."""

import re

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import GradientShift
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.mixed_weights import in_order
from kbn.callbacks.probing.probe_data import Batch
from kbn.records import catalogue, tags
from tests.support import events, models
from tests.support.on_backend import BACKEND, gradient_of_variables
from tests.support.scalar_net import by_layer, scalar_net
from tests.support.warned import user_warnings

X, Y = models.X, models.Y


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_the_scalar_net_has_its_known_answer(rate, tmp_path):
    x, y = np.ones((1, 1)), np.zeros((1, 1))
    shift = GradientShift(tmp_path, (x, y), every_steps=1)
    scalar_net(rate).fit(x, y, verbose=0, callbacks=[shift])
    found = by_layer(shift, 1)
    expected = 1 - (1 - rate) ** 2
    assert found["one", "gradient_shift"] == 0
    assert found["two", "gradient_shift"] == pytest.approx(expected, rel=1e-6)
    assert found["two", "gradient_shift_relative"] == pytest.approx(expected, rel=1e-6)  # G = 1
    assert found["one", "gradient_cosine"] == found["two", "gradient_cosine"] == 1


@pytest.mark.parametrize("kind", models.BUILDERS)
def test_without_a_step_nothing_shifts(kind, tmp_path):
    model = models.BUILDERS[kind]()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    shift = GradientShift(tmp_path, (X, Y), layers=lambda layer: bool(layer.trainable_variables),
                          every_steps=1)  # fmt: skip
    model.fit(X, Y, batch_size=20, verbose=0, callbacks=[shift])
    rows = [row for row in shift.history if row.site == tags.PROBE]
    assert {row.step for row in rows} == {1, 2, 3}
    assert {row.value for row in rows if row.measure == "gradient_cosine"} == {1.0}
    assert {row.value for row in rows if row.measure != "gradient_cosine"} == {0.0}


@pytest.mark.thorough
def test_weights_mixed_by_hand_give_the_same(tmp_path):
    """Adam, weight constraints, γ and β: G' from a clone whose earlier layers were set."""
    inputs = x = keras.Input((6,))
    for name in ("a", "b"):
        x = keras.layers.Dense(5, name=name, kernel_constraint="unit_norm")(x)
        x = keras.layers.Activation("tanh")(kbn.BatchNormalization(name=f"bn_{name}")(x))
    model = keras.Model(inputs, keras.layers.Dense(1, name="c")(x))
    model.compile("adam", "mse")
    names = ["a", "bn_a", "b", "bn_b", "c"]
    shift = GradientShift(tmp_path, (X, Y), layers=names, every_steps=1)
    model.fit(X, Y, batch_size=20, verbose=0)
    weights = [model.get_weights()]

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):  # on JAX, `self.model` brings the weights
            weights.append(self.model.get_weights())

    model.fit(X, Y, batch_size=20, verbose=0, callbacks=[Keep(), shift])
    for step in (1, 2, 3):
        before, after = weights[step - 1], weights[step]
        found = by_layer(shift, step + 3)
        for place, name in enumerate(names):
            old, new = (gradient(model, names, each, place) for each in
                        (before, mixed(model, names[:place], before, after)))  # fmt: skip
            assert found[name, "gradient_shift"] == pytest.approx(
                np.linalg.norm(old - new), rel=1e-4, abs=1e-6
            )
            relative = np.linalg.norm(old - new) / np.linalg.norm(old)
            assert found[name, "gradient_shift_relative"] == pytest.approx(
                relative, rel=1e-4, abs=1e-6
            )
            cosine = old @ new / np.linalg.norm(old) / np.linalg.norm(new)
            assert found[name, "gradient_cosine"] == pytest.approx(cosine, abs=1e-5)
        assert found["c", "gradient_shift"] > 1e-4
        assert found["a", "gradient_shift"] == 0
    model.set_weights(weights[-1])


def mixed(model, earlier, before, after):
    """Return `before` with the trainable weights of the `earlier` layers taken from `after`."""
    new = {v.path for name in earlier for v in model.get_layer(name).trainable_variables}
    return [a if v.path in new else b for v, b, a in zip(model.weights, before, after, strict=True)]


def gradient(model, names, weights, place):
    model.set_weights(weights)
    variables = model.get_layer(names[place]).trainable_variables
    x, y = map(keras.ops.convert_to_tensor, (X, Y))
    found = gradient_of_variables(
        lambda: keras.ops.mean(keras.ops.square(model(x, training=True) - y)), variables
    )
    return np.concatenate([each.ravel().astype("float64") for each in found])


def test_layers_are_in_the_order_of_their_calls(tmp_path):
    """Built in another order than called; one layer is called inside a loop."""

    class Crossed(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = keras.layers.Dense(1, name="last")
            self.first = keras.layers.Dense(6, name="first")
            self.rnn = keras.layers.LSTM(4, name="rnn")

        def call(self, x):
            x = self.first(x)
            return self.last(self.rnn(keras.ops.reshape(x, (-1, 3, 2))))

    model = Crossed()
    model.compile("sgd", "mse")
    shift = GradientShift(tmp_path, (X, Y), layers=["last", "rnn", "first"], every_steps=1)
    model.fit(X, Y, batch_size=60, verbose=0, callbacks=[shift])
    found = by_layer(shift, 1)
    assert [layer for layer, measure in found if measure == "gradient_shift"] == [
        "first", "rnn", "last",
    ]  # fmt: skip
    assert found["first", "gradient_shift"] == 0
    assert found["rnn", "gradient_shift"] > 0
    assert found["last", "gradient_shift"] > 0


class Tied(keras.layers.Layer):
    """Multiplies by the transposed kernel of another layer, which it holds."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.other = other

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.other.kernel))


def test_tied_weights_have_the_position_of_their_first_use(tmp_path):
    first = keras.layers.Dense(5, use_bias=False, name="first")
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, name="second")(first(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(Tied(first, name="tied")(x)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    shift = GradientShift(tmp_path, (X, Y), layers=["first", "second", "head"], every_steps=1)
    model.fit(X, Y, batch_size=60, verbose=0, callbacks=[shift])
    found = by_layer(shift, 1)
    assert found["first", "gradient_shift"] == 0
    assert found["second", "gradient_shift"] > 0


class Scaled(keras.layers.Layer):
    """Scales before its inner layer, and after it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.after = self.add_weight(shape=(), initializer="ones", name="after")
        self.inner = keras.layers.Dense(4, use_bias=False, name="inner")
        self.before = self.add_weight(shape=(), initializer="ones", name="before")

    def call(self, x):
        return self.after * self.inner(self.before * x)


class Weighted(keras.Model):
    """Has weights of its own, before its layers and between them."""

    def __init__(self):
        super().__init__()
        self.between = self.add_weight(shape=(), initializer="ones", name="between")
        self.block = Scaled(name="block")
        self.head = keras.layers.Dense(1, use_bias=False, name="head")
        self.unused = keras.layers.Dense(1, name="unused")
        self.unused.build((6,))
        self.first = self.add_weight(shape=(), initializer="ones", name="first")

    def call(self, x):
        return self.head(self.between * self.block(self.first * x))


@pytest.mark.parametrize("eagerly", [False, True])
def test_weights_are_in_the_order_of_their_use(eagerly):
    """Whoever holds them, and in whichever order they were made."""
    model = Weighted()
    model.compile("sgd", "mse", run_eagerly=eagerly)
    loss = LossProbe(model, Batch(X, Y), "test")
    owners = {id(model.block.inner.kernel): "inner ", id(model.head.kernel): "head "}
    names = [owners.get(id(each), "") + each.name for each in loss.variables]
    chosen = {"head": model.head, "inner": model.block.inner, "unused": model.unused,
              "block": model.block}  # fmt: skip
    places, missed = in_order(loss, chosen)
    old, new = ([np.array(step) for _ in names] for step in (0, 1))
    earlier = {}
    for place in places:
        mixed = place.mixed(old, new) or old
        earlier[place.path] = {name for name, value in zip(names, mixed, strict=True) if value}
    assert missed == ["unused"]
    assert earlier == {
        "block": {"first"},
        "inner": {"first", "before"},
        "head": {"first", "before", "inner kernel", "after", "between"},
    }


def test_by_default_the_layers_with_a_kernel_are_watched(tmp_path):
    shift = GradientShift(tmp_path, (X, Y))
    models.compiled("functional").fit(X, Y, verbose=0, callbacks=[shift])
    assert {row.layer for row in shift.history if row.site == tags.PROBE} == {"dense", "head"}


OPTIONS = [{"steps_per_execution": 4}, {"jit_compile": True}]
OPTIONS = OPTIONS[1:] if BACKEND == "torch" else OPTIONS  # Keras has no steps_per_execution there


@pytest.mark.thorough
# torch.compile warns of code inside PyTorch.
@pytest.mark.filterwarnings("ignore" if BACKEND == "torch" else "error")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_that_were_recorded(options, tmp_path):
    shift = GradientShift(tmp_path, (X, Y), on_steps=[3, 8])
    models.compiled("functional", **options).fit(
        X, Y, batch_size=6, shuffle=False, verbose=0, callbacks=[shift]
    )
    expected = [4, 8] if "steps_per_execution" in options else [1, 3, 8]
    assert sorted({row.step for row in shift.history}) == expected


@pytest.mark.thorough
@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2]), (2, [1, 2]), (100, [1])])
@pytest.mark.parametrize("epochs", [1, 3])  # of three, each ends before a step is made
def test_accumulated_gradients_make_a_step_of_several_batches(epochs, every, steps, tmp_path):
    x, y = np.ones((6 // epochs, 1)), np.zeros((6 // epochs, 1))
    model = scalar_net(0.1)
    model.compile(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
        lambda y, p: 0.5 * keras.ops.square(p - y),
    )
    shift = GradientShift(tmp_path, (x, y), every_steps=every)
    model.fit(x, y, batch_size=1, epochs=epochs, verbose=0, callbacks=[shift])
    assert sorted({row.step for row in shift.history}) == steps
    assert by_layer(shift, 1)["two", "gradient_shift"] == pytest.approx(1 - 0.9**2, rel=1e-6)


def test_every_tag_ends_in_probe(tmp_path):
    shift = GradientShift(tmp_path, (X, Y))
    models.compiled("functional").fit(X, Y, verbose=0, callbacks=[shift])
    run = tmp_path / "gradient_shift"
    written = [
        tag for tag in events.tags(run) if tag.split("/")[0] in catalogue.scalars("gradient_shift")
    ]
    assert len(written) == 6
    assert all(tag.endswith("/probe") for tag in written)
    assert (
        "Def. 2.1"
        in events.accumulate(run).SummaryMetadata("gradient_shift/head/probe").summary_description
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": "relu"},
            "no trainable weights or the model does not call them in training: relu.",
        ),
        (
            {"layers": ["dense", "relu"]},
            "Name others in layers. Received: layers=['dense', 'relu']",
        ),
        ({"layers": "conv"}, "layers matches no layer of this model. Received: 'conv'"),
        ({"probe_data": X}, "probe_data must have targets: (x, y)"),
    ],
)
def test_layers_that_cannot_be_watched_raise_before_the_first_step(options, message, tmp_path):
    model = models.compiled("functional")
    shift = GradientShift(tmp_path / "log", **{"probe_data": (X, Y), **options})
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, Y, verbose=0, callbacks=[shift])
    assert int(model.optimizer.iterations.numpy()) == 0
    assert not (tmp_path / "log").exists()


def test_layers_without_weights_that_a_pattern_matches_are_left_out_with_a_warning(tmp_path):
    shift = GradientShift(tmp_path, (X, Y), layers="*")
    with user_warnings() as texts:
        models.compiled("functional").fit(X, Y, verbose=0, callbacks=[shift])
    assert len(texts) == 1
    assert "no trainable weights or the model does not call them" in texts[0]
    assert texts[0].endswith(": relu, dropout.")
    assert {row.layer for row in shift.history if row.site == tags.PROBE} == {"dense", "bn", "head"}


def test_a_gradient_of_0_has_no_ratio_and_no_direction():
    from kbn.callbacks.gradient_shift import compared

    nothing, something = np.zeros(2), np.array([3.0, 4.0])
    assert list(compared(nothing, nothing).values()) == [0, 0, 1]
    shift, relative, cosine = compared(nothing, something).values()
    assert (shift, relative) == (5, np.inf)
    assert np.isnan(cosine)
    assert list(compared(something, nothing).values())[:2] == [5, 1]
    assert list(compared(something, -something).values()) == [10, 2, -1]


@pytest.mark.parametrize(
    ("gradient", "moved", "expected"),
    [
        ([np.inf, 1.0], [np.inf, 2.0], [np.nan, np.nan, np.nan]),
        ([1.0, 1.0], [np.inf, 1.0], [np.inf, np.inf, np.nan]),
        ([np.inf, 1.0], [1.0, 1.0], [np.inf, np.nan, np.nan]),
        ([np.nan, 1.0], [1.0, 1.0], [np.nan, np.nan, np.nan]),
        ([1e200, 0.0], [0.0, 1e200], [np.inf, np.nan, 0.0]),  # their squares overflow
    ],
)
def test_a_diverged_net_is_recorded_without_a_warning(gradient, moved, expected):
    """Warnings are errors in tests."""
    from kbn.callbacks.gradient_shift import compared

    found = compared(np.array(gradient), np.array(moved))
    np.testing.assert_array_equal([*found.values()], expected)
