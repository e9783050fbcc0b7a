"""Any model: whatever `fit` trains can be watched to the end, and the numbers are right.

The answers come from the weights before and after the last call of the training function, and from
Keras: a tape around `compute_loss`, and `evaluate`.
"""

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.introspection.layer_tree import layer_paths
from kbn.records import catalogue, tags
from kbn.records.tags import Place
from tests.support import events
from tests.support.any_model import (
    BATCH,
    EVERY_STEP,
    INSIDE,
    PROBE,
    REGULARIZED,
    SEQUENCES,
    Own,
    X,
    Y,
    assert_recorded,
    assert_right,
    assert_shifted,
    compiled,
    evaluated,
    functional,
    loss_at,
    recurrent,
    trained,
    values,
)
from tests.support.callbacks import CALLBACKS, first_step, steps
from tests.support.on_backend import on_tensorflow, tf
from tests.support.scalar_net import by_layer, scalar_net
from tests.support.warned import user_warnings
from tests.support.workers import run_workers

WITHOUT_LOSS = ("CovariateShift", "MovingStatistics")
NEED_LOSS = ("GradientShift", "LossLandscape")
WEIGHT = np.linspace(0.1, 2, 60).astype("float32")


class OwnStep(Own):
    def loss_of(self, x, y):
        return self.compute_loss(x, y, self(x, training=True))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(*data)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class OwnLoss(OwnStep):
    """Only `train_step` has its loss."""

    def loss_of(self, x, y):
        return tf.reduce_mean(tf.square(self(x, training=True) - y))


class Regularized(OwnLoss):
    """Adds what its regularizers say to a loss that only `train_step` has."""

    of_dense = REGULARIZED

    def loss_of(self, x, y):
        return super().loss_of(x, y) + tf.add_n(self.losses)


class RegularizedAndAdds(Regularized):
    def call(self, x, training=False):
        y = super().call(x, training=training)
        self.add_loss(keras.ops.mean(keras.ops.square(y - 3)))
        return y

    def loss_of(self, x, y):
        return self.compute_loss(x, y, self(x, training=True))


class SeveralSteps(Own):
    def train_step(self, data):
        for _ in range(3):
            logs = super().train_step(data)
        return logs


class AddsLoss(Own):
    def call(self, x, training=False):
        y = super().call(x, training=training)
        self.add_loss(keras.ops.mean(keras.ops.square(y - 3)))
        return y


def unbuilt():
    return keras.Sequential(
        [
            layers.Dense(4, name="dense"),
            kbn.BatchNormalization(name="bn"),
            layers.Dense(1, name="head"),
        ]
    )


def frozen(name):
    model = functional()
    model.get_layer(name).trainable = False
    return model


def sgd(**options):
    return keras.optimizers.SGD(0.05, **options)


AVERAGING = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}


SCENARIOS = {
    "own train_step": (lambda: compiled(OwnStep()), EVERY_STEP),
    "several steps in train_step": (lambda: compiled(SeveralSteps()), [0, 3, 6, 9, 12, 15, 18]),
    "unbuilt subclassed": (lambda: compiled(Own()), EVERY_STEP),
    "unbuilt Sequential": (lambda: compiled(unbuilt()), EVERY_STEP),
    "moving average of weights": (lambda: compiled(functional(), sgd(**AVERAGING)), EVERY_STEP),
    "run_eagerly": (lambda: compiled(functional(), run_eagerly=True), EVERY_STEP),
    "jit_compile": (lambda: compiled(functional(), jit_compile=True), EVERY_STEP),
    "steps_per_execution": (
        lambda: compiled(functional(), steps_per_execution=2),
        [0, 2, 3, 5, 6],
    ),
    "frozen layer": (lambda: compiled(frozen("dense")), EVERY_STEP),
    "frozen normalization": (lambda: compiled(frozen("bn")), EVERY_STEP),
}


@pytest.mark.basic(
    "own train_step", "unbuilt subclassed", "steps_per_execution", "frozen normalization"
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_kind_of_training_is_recorded(scenario, tmp_path):
    build, expected = SCENARIOS[scenario]
    run = trained(build(), tmp_path)
    assert_recorded(run, expected, tmp_path)
    assert_right(run)


@pytest.mark.thorough
@pytest.mark.parametrize("build", [Own, unbuilt])
@pytest.mark.parametrize("name", CALLBACKS)
def test_each_callback_alone_may_be_the_first_to_call_the_model(name, build, tmp_path):
    run = trained(compiled(build()), tmp_path, names=[name], epochs=1)
    assert_recorded(run, [0, 1, 2, 3], tmp_path)


def test_a_train_step_of_several_steps_crosses_due_steps(tmp_path):
    """It makes three; the first record of GradientShift is that of the first call."""
    run = trained(compiled(SeveralSteps()), tmp_path, every_steps=6)
    for name, callback in run.callbacks.items():
        assert steps(callback) == [3 * first_step(name), 6, 12, 18]
        assert callback.lost_records == 0
    assert_right(run)


@pytest.mark.thorough
def test_a_loss_of_add_loss_alone(tmp_path):
    run = trained(compiled(AddsLoss(), loss=None), tmp_path, y=None)
    assert_recorded(run, EVERY_STEP, tmp_path)
    assert_right(run)


@pytest.mark.thorough
def test_a_loss_of_add_loss_beside_regularizers_in_an_own_train_step(tmp_path):
    run = trained(compiled(RegularizedAndAdds(), loss=None), tmp_path)
    assert_recorded(run, EVERY_STEP, tmp_path)
    assert_right(run)


def test_without_another_loss_regularizers_are_the_loss(tmp_path):
    """Keras's own `train_step` then minimizes them alone, and warns of weights without any."""
    regularized = {"kernel_regularizer": "l2", "bias_regularizer": "l2"}
    inputs = keras.Input((6,))
    x = layers.Dense(4, activity_regularizer="l1", **regularized)(inputs)
    x = kbn.BatchNormalization(center=False, scale=False)(x)
    x = layers.Dense(1, **regularized)(x)
    run = trained(compiled(keras.Model(inputs, x), loss=None), tmp_path, names=["LossLandscape"])
    assert_recorded(run, EVERY_STEP, tmp_path)
    found = values(run.callbacks["LossLandscape"], tags.MODEL)["loss"]
    assert found == pytest.approx(float(loss_at(run.model, run.after, run.probe)), rel=1e-5)
    assert found > 0


@pytest.mark.parametrize("build", [OwnLoss, Regularized])
def test_a_loss_that_only_train_step_has(build, tmp_path):
    run = trained(compiled(build(), loss=None), tmp_path, names=WITHOUT_LOSS)
    assert_recorded(run, EVERY_STEP, tmp_path)
    assert_right(run)


@pytest.mark.parametrize(
    ("build", "received"),
    [
        (OwnLoss, "model.loss=None"),
        (Regularized, "model.loss=None, with regularizers and trained by a custom train_step"),
    ],
)
@pytest.mark.parametrize("name", NEED_LOSS)
def test_callbacks_that_need_the_loss_raise_before_the_first_step(name, build, received, tmp_path):
    model = compiled(build(), loss=None)
    message = f"^{name} needs the loss, but the model '.*' has none. Pass .* Received: {received}$"
    with pytest.raises(ValueError, match=message):
        trained(model, tmp_path / "log", names=[name])
    assert int(model.optimizer.iterations.numpy()) == 0
    assert not (tmp_path / "log").exists()


def test_accumulated_gradients_are_recorded_by_the_update(tmp_path):
    """Six batches, three updates; GradientShift waits for the first."""
    model = compiled(functional(), sgd(gradient_accumulation_steps=2))
    run = trained(model, tmp_path)
    for name, callback in run.callbacks.items():
        assert steps(callback) == list(range(first_step(name), 4))
    assert all(callback.lost_records == 0 for callback in run.callbacks.values())
    assert_right(run)


def test_averaged_weights_are_the_ones_that_count(tmp_path):
    """At the second step the scalar net's weight becomes the average of its two."""
    rate, momentum = 0.1, 0.5
    x, y = np.ones((2, 1)), np.zeros((2, 1))
    model = scalar_net(rate)
    model.compile(keras.optimizers.SGD(rate, **AVERAGING), half_square)
    shift = CALLBACKS["GradientShift"](tmp_path, (x, y), every_steps=1)
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[shift])
    first = stepped(1.0, rate, 1)
    average = first  # which starts with the first
    second = momentum * average + (1 - momentum) * stepped(first, rate, 1)
    for step, before, after in ((1, 1.0, first), (2, first, second)):
        found = by_layer(shift, step)["two", "gradient_shift"]
        assert found == pytest.approx(before * abs(before**2 - after**2), rel=1e-5)


def half_square(y, p):
    return 0.5 * keras.ops.square(p - y)


def stepped(weight, rate, count):
    """Return the weight of the scalar net, which both layers have, after some steps of SGD."""
    for _ in range(count):
        weight -= rate * weight**3
    return weight


@pytest.mark.parametrize("at_once", [2, 3, 4])
def test_weights_as_many_steps_apart_as_keras_runs_at_once(at_once, tmp_path):
    """Seven steps; the last call makes what is left."""
    rate = 0.1
    x, y = np.ones((7, 1)), np.zeros((7, 1))
    model = scalar_net(rate)
    model.compile(keras.optimizers.SGD(rate), half_square, steps_per_execution=at_once)
    shift = CALLBACKS["GradientShift"](tmp_path, (x[:1], y[:1]), every_steps=1)
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[shift])
    ends = [*range(at_once, 7, at_once), 7]
    assert steps(shift) == ends
    for start, end in zip([0, *ends], ends, strict=False):
        before, after = stepped(1.0, rate, start), stepped(1.0, rate, end)
        found = by_layer(shift, end)
        expected = before * (before**2 - after**2)
        assert found["two", "gradient_shift"] == pytest.approx(expected, rel=1e-5)
        relative = 1 - after**2 / before**2
        assert found["two", "gradient_shift_relative"] == pytest.approx(relative, rel=1e-5)
        assert found["one", "gradient_shift"] == 0


@pytest.fixture
def _half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("_half_precision")
def test_scaled_losses_of_half_precision(tmp_path):
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=256.0)
    model = compiled(functional(), optimizer)
    run = trained(model, tmp_path)
    assert model.optimizer is optimizer
    assert model.get_layer("dense").compute_dtype == "float16"
    assert_recorded(run, EVERY_STEP, tmp_path)
    assert_right(run, close=2e-2)


@pytest.mark.thorough
@pytest.mark.usefixtures("_half_precision")
def test_a_loss_scale_that_is_still_too_large_does_not_affect_records(tmp_path):
    """Keras begins with 32,768 and leaves steps out until its own gradients are finite."""
    run = trained(compiled(functional()), tmp_path)
    assert isinstance(run.model.optimizer, keras.optimizers.LossScaleOptimizer)
    for callback in run.callbacks.values():
        assert [row for row in callback.history if not math.isfinite(row.value)] == []


def several():
    """Two inputs, two outputs with a loss each; no dropout, no normalization."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = layers.Dense(4, "tanh", name="dense")(layers.Concatenate(name="both")([a, b]))
    heads = {"one": layers.Dense(1, name="one")(x), "two": layers.Dense(3, name="two")(x)}
    loss = {"one": "mae", "two": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    return compiled(keras.Model({"a": a, "b": b}, heads), "adam", loss,
                    loss_weights={"one": 0.5, "two": 2.0})  # fmt: skip


SEVERAL_X = {"a": X, "b": X[::-1]}
SEVERAL_Y = {"one": Y, "two": np.arange(60) % 3}
SEVERAL_WEIGHTS = {"one": WEIGHT, "two": WEIGHT[::-1]}
LOSSES_ALONE = [name for name in CALLBACKS if name != "MovingStatistics"]


@pytest.mark.thorough
@pytest.mark.parametrize("weighted", [False, True])
def test_several_outputs_with_weights_of_losses_and_samples(weighted, tmp_path):
    weight = SEVERAL_WEIGHTS if weighted else None
    run = trained(several(), tmp_path, SEVERAL_X, SEVERAL_Y, weight, names=LOSSES_ALONE)
    assert_recorded(run, EVERY_STEP, tmp_path)
    found = values(run.callbacks["LossLandscape"], tags.MODEL)["loss"]
    assert found == pytest.approx(evaluated(run.model, run.probe), rel=1e-5)
    if weighted:
        unweighted = evaluated(run.model, run.probe._replace(sample_weight=None))
        assert found != pytest.approx(unweighted, rel=0.05)
    for head in ("one", "two"):
        assert_shifted(run, head, ("dense",))
    assert values(run.callbacks["GradientShift"], "dense")["gradient_shift"] == 0


class Batches(keras.utils.PyDataset):
    """Of seven samples each."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 9

    def __getitem__(self, index):
        cut = slice(7 * index, 7 * index + 7)
        return keras.tree.map_structure(lambda each: each[cut], self.parts)


def functional_data():
    return compiled(functional()), (X, Y), CALLBACKS


def several_data():
    """Dicts of inputs, outputs and weights."""
    return several(), (SEVERAL_X, SEVERAL_Y, SEVERAL_WEIGHTS), LOSSES_ALONE


@pytest.mark.thorough
@pytest.mark.parametrize("build", [functional_data, several_data])
@on_tensorflow
def test_data_sets_and_their_arrays_give_the_same_records(build, tmp_path):
    """All sources are watched in one fit."""
    model, parts, names = build()
    sources = {
        "arrays": parts,
        "Dataset": tf.data.Dataset.from_tensor_slices(parts).batch(7),
        "PyDataset": Batches(*parts),
    }
    callbacks = {
        (kind, name): CALLBACKS[name](tmp_path / kind, source, every_steps=1, probe_size=PROBE)
        for kind, source in sources.items()
        for name in names
    }
    with user_warnings():
        model.fit(*parts[:2], batch_size=BATCH, verbose=0, callbacks=[*callbacks.values()])
    for (_, name), callback in callbacks.items():
        arrays = callbacks["arrays", name]
        assert [rows_but_cost(callback), callback.lost_records] == [rows_but_cost(arrays), 0]
        assert steps(callback) == [step for step in (0, 1, 2, 3) if step >= first_step(name)]


def rows_but_cost(callback):
    return [row for row in callback.history if row.measure != catalogue.MONITOR]


def is_distance(measure):
    return measure.removesuffix("_worst") in catalogue.distances()


class StopError(Exception):
    """Ends a training."""


class Resumed(NamedTuple):
    """A training whose second epoch raised, and one that went on from its backup.

    Attributes:
        folder: where both wrote.
        first: the callbacks of the first one, by name.
        second: those of the second one.
        texts: what users were warned of, but for advice.
    """

    folder: Path
    first: dict[str, Any]
    second: dict[str, Any]
    texts: list[str]


def resumed(folder, backup_first):
    """Raise after the fifth step; the backup is of the third."""

    def stop(batch, logs):
        if not (folder / "over").exists() and model.optimizer.iterations.numpy() == 5:
            (folder / "over").touch()
            raise StopError

    both = []
    with user_warnings() as texts:
        for _ in range(2):
            model = compiled(functional(), "adam")
            both.append({
                name: callback(folder / "log", (X, Y), every_steps=1, probe_size=PROBE)
                for name, callback in CALLBACKS.items()
            })  # fmt: skip
            callbacks = [keras.callbacks.BackupAndRestore(folder / "backup")]
            callbacks[backup_first:backup_first] = both[-1].values()
            callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=stop))
            with contextlib.suppress(StopError):
                model.fit(X, Y, batch_size=BATCH, epochs=3, verbose=0, callbacks=callbacks)
    assert int(model.optimizer.iterations.numpy()) == 9
    texts = [text for text in texts if "inference will be off" not in text]
    return Resumed(folder / "log", *both, texts)


@pytest.fixture(scope="module")
def resumptions(tmp_path_factory):
    """By whether BackupAndRestore stands before the callbacks."""
    return [resumed(tmp_path_factory.mktemp("resumed"), each) for each in (False, True)]


@pytest.mark.thorough
@pytest.mark.parametrize("backup_first", [True, False])
def test_resumed_training_continues_from_the_step_of_its_backup(backup_first, resumptions):
    _, first, second, texts = resumptions[backup_first]
    assert texts == []  # it is no other run
    for name, callback in second.items():
        start = 3 + first_step(name)
        assert steps(callback) == list(range(start, 10))
        assert steps(first[name]) == list(range(first_step(name), 6))
        assert callback.lost_records == first[name].lost_records == 0
    # The record at the restored step is that of the same weights; distances begin anew.
    for name in ("LossLandscape", "MovingStatistics", "CovariateShift"):
        again, before = ({r[1:4]: r.value for r in rows_but_cost(callback[name]) if r.step == 3}
                         for callback in (second, first))  # fmt: skip
        assert len(again) > 5
        distances = {key: value for key, value in again.items() if is_distance(key[2])}
        assert set(distances.values()) <= {0}
        assert bool(distances) == (name == "CovariateShift")
        same = again.keys() - distances.keys()
        assert {key: again[key] for key in same} == {key: before[key] for key in same}


@pytest.mark.thorough
def test_steps_that_are_run_again_appear_once_in_tensorboard(resumptions):
    for run in resumptions:
        for name, callback in run.second.items():
            assert written_steps(run.folder, callback) == list(range(first_step(name), 10))


def written_steps(folder, callback):
    """Return the steps of a tag in the order in which TensorBoard has them."""
    row = callback.history[0]
    tag = tags.tag(row.measure, Place(row.layer, row.site))
    return [event.step for event in events.accumulate(folder / callback.run).Tensors(tag)]


def test_many_short_fits_are_recorded_in_their_order(tmp_path, monkeypatch):
    from kbn.callbacks.writing import event_file as writer

    monkeypatch.setattr(writer, "FILE_NUMBERS", iter(range(8, 100)))
    monkeypatch.setattr(writer.time, "time", lambda: 1.8e9)  # all within one second
    callback = CALLBACKS["LossLandscape"](tmp_path, (X[:4], Y[:4]), every_steps=1, points=2)
    model = compiled(functional())
    for _ in range(4):
        model.fit(X, Y, batch_size=60, verbose=0, callbacks=[callback])
    assert written_steps(tmp_path, callback) == [0, 1, 2, 3, 4]


@pytest.mark.basic("LSTM")
@pytest.mark.parametrize("kind", INSIDE)
def test_layers_with_a_loop_are_watched_and_those_inside_it_are_not(kind, tmp_path):
    run = trained(recurrent(kind), tmp_path, SEQUENCES, names=["CovariateShift", "LossLandscape"])
    inside = INSIDE[kind]
    assert_recorded(run, EVERY_STEP, tmp_path, texts=[", ".join(inside)])
    shift = run.callbacks["CovariateShift"]
    watched = {row.layer for row in rows_but_cost(shift)}
    assert watched == {*layer_paths(run.model)} - {*inside}
    rnn = run.model.get_layer("rnn")
    for site, array in (("input", run.probe.x), ("output", rnn(run.probe.x).numpy())):
        found = values(shift, "rnn", site)
        assert found["mean"] == pytest.approx(array.mean(), rel=1e-4, abs=1e-6)
        assert found["std"] == pytest.approx(array.std(), rel=1e-4)
    found = values(run.callbacks["LossLandscape"], tags.MODEL)["loss"]
    assert found == pytest.approx(evaluated(run.model, run.probe), rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", INSIDE)
def test_weights_inside_a_loop_count_with_the_layer_that_has_it(kind, tmp_path):
    run = trained(recurrent(kind), tmp_path, SEQUENCES, names=["GradientShift"])
    assert_shifted(run, "head", ("rnn",))
    assert_recorded(run, EVERY_STEP, tmp_path)
    shift = CALLBACKS["GradientShift"](tmp_path / "two", (SEQUENCES, Y), layers=["rnn", "head"])
    run.model.fit(SEQUENCES, Y, verbose=0, callbacks=[shift])
    assert [row.layer for row in shift.history if row.measure == "gradient_shift"] == [
        "rnn", "head",
    ]  # fmt: skip
    assert values(shift, "rnn")["gradient_shift"] == 0


@pytest.mark.parametrize("layer", [kbn.BatchNormalization, layers.BatchNormalization])
@pytest.mark.parametrize("another", [False, True])
def test_a_normalization_inside_a_loop_is_left_out(layer, another, tmp_path):
    """Of its calls none can be seen. Alone it is refused, beside another it is warned of."""
    inputs = keras.Input((4, 6))
    x = layers.TimeDistributed(layer(name="inner"), name="rnn")(inputs)
    x = layer(name="bn")(x) if another else x
    model = keras.Model(inputs, layers.Dense(1, name="head")(layers.Flatten()(x)))
    compiled(model)
    if not another:
        message = r"or calls them inside a loop: rnn/inner\. Name others in layers\."
        with pytest.raises(ValueError, match=message):
            trained(model, tmp_path / "log", SEQUENCES, names=["MovingStatistics"])
        assert not (tmp_path / "log").exists()
        return
    run = trained(model, tmp_path, SEQUENCES, names=["MovingStatistics"])
    assert_recorded(run, EVERY_STEP, tmp_path, texts=["1 of those that are watched by default"])
    assert {row.layer for row in rows_but_cost(run.callbacks["MovingStatistics"])} == {
        "bn", tags.MODEL,
    }  # fmt: skip


def test_frozen_layers_have_no_shift_and_frozen_statistics_no_gap(tmp_path):
    run = trained(compiled(frozen("bn")), tmp_path / "one", names=["MovingStatistics"])
    gaps = [r for r in run.callbacks["MovingStatistics"].history if r.measure == "output_gap"]
    assert [row.value for row in gaps] == [0] * 7
    before, *_, after = (
        values(run.callbacks["MovingStatistics"], "bn", step=s) for s in EVERY_STEP
    )
    assert before["mean_gap"] != after["mean_gap"]  # the batch's moves
    for name in ("bn", "dense"):
        shift = CALLBACKS["GradientShift"](tmp_path / name, (X, Y), layers=["*"])
        with user_warnings() as texts:
            compiled(frozen(name)).fit(X, Y, verbose=0, callbacks=[shift])
        assert [text.endswith(f": {name}.") for text in texts] == [True]
        assert {row.layer for row in rows_but_cost(shift)} == {"dense", "bn", "head"} - {name}
        named = CALLBACKS["GradientShift"](tmp_path / "log", (X, Y), layers=[name, "head"])
        with pytest.raises(ValueError, match=f"no gradient, .*: {name}\\. Name others in layers"):
            compiled(frozen(name)).fit(X, Y, verbose=0, callbacks=[named])


def test_there_is_no_warning_about_frozen_statistics(tmp_path):
    """Training normalizes by them, as inference does."""
    callback = CALLBACKS["MovingStatistics"](tmp_path, (X + 9, Y))
    with user_warnings() as texts:
        compiled(frozen("bn")).fit(X, Y, verbose=0, callbacks=[callback])
    assert texts == []


# Keras's own `fit` fails under this strategy, when it takes the first batch: so the callbacks are
# called by hand as it would call them.
WORKER = """
    import json, os, sys, warnings
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras, kbn
    from tests.support import models
    from tests.support.callbacks import CALLBACKS, steps
    warnings.simplefilter("ignore")
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="dense"),
                                  kbn.BatchNormalization(name="bn"),
                                  keras.layers.BatchNormalization(name="other"),
                                  keras.layers.Dense(1, name="head")])
        model.compile("sgd", "mse")
        model._symbolic_build(data_batch=(models.X[:10], models.Y[:10]))
    train = tf.function(lambda *data: strategy.run(lambda *data: model.train_step(data)["loss"],
                                                   args=data))

    def fit(folder):
        watching = [callback(folder, (models.X, models.Y), every_steps=1)
                    for callback in CALLBACKS.values()]
        callbacks = keras.callbacks.CallbackList(watching, model=model, epochs=2, steps=3)
        callbacks.on_train_begin()
        for epoch in range(2):
            callbacks.on_epoch_begin(epoch)
            for batch in range(3):
                callbacks.on_train_batch_begin(batch)
                first = 20 * batch + 10 * rank
                train(models.X[first : first + 10], models.Y[first : first + 10])
                callbacks.on_train_batch_end(batch)
            callbacks.on_epoch_end(epoch)
        callbacks.on_train_end()
        return [[steps(one), len(one.history), one.lost_records, one.cost.records]
                for one in watching]

    found = [fit(f"{sys.argv[1]}/{rank}"), fit(f"{sys.argv[1]}/both")]
    weights = [v.numpy().tolist() for v in model.trainable_variables]
    print("RESULT" + json.dumps([found, int(model.optimizer.iterations.numpy()), weights]))
"""


FIT_OF_WORKERS = """
    import json, os, sys, warnings
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras, kbn
    from tests.support import models
    from tests.support.callbacks import CALLBACKS, steps
    warnings.simplefilter("ignore")

    class PerWorker(keras.Model):  # as in examples/training/workers.py
        def call(self, x, training=False):
            return self.net(x, training=training)
        def train_step(self, data):
            return {k: v[None] for k, v in super().train_step(data).items()}

    def fit(callbacks):
        keras.utils.set_random_seed(0)
        data = tf.data.Dataset.from_tensor_slices((models.X, models.Y)).batch(20)
        model = PerWorker()
        with strategy.scope():
            model.net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="dense"),
                                          kbn.BatchNormalization(name="bn"),
                                          keras.layers.Dense(1, name="head")])
            model.compile("adam", "mse")
            model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return [weight.tolist() for weight in model.get_weights()]

    watching = [callback(sys.argv[1], (models.X, models.Y), every_steps=2)
                for callback in CALLBACKS.values()]
    weights = [fit(watching), fit([])]
    found = [[steps(each), each.lost_records] for each in watching]
    print("RESULT" + json.dumps([weights, found]))
"""


@pytest.mark.thorough
def test_fit_with_two_worker_processes_is_watched_by_the_chief(tmp_path):
    (chief, recorded), (other, not_recorded) = run_workers(FIT_OF_WORKERS, tmp_path)
    assert chief == other  # on both workers
    assert chief[0] == chief[1]  # with callbacks and without
    assert not_recorded == [[[], 0]] * len(CALLBACKS)
    assert recorded == [[[first_step(name), 2, 4, 6], 0] for name in CALLBACKS]


@pytest.mark.thorough
def test_of_two_worker_processes_the_chief_alone_writes(tmp_path):
    """In folders of their own, and in one that they share."""
    (chief, *ends), (other, *other_ends) = run_workers(WORKER, tmp_path)
    assert ends == other_ends
    assert ends[0] == 12
    for start, recorded, not_recorded in zip((0, 6), chief, other, strict=True):
        assert not_recorded == [[[], 0, 0, 0]] * len(CALLBACKS)
        for name, (taken, rows, lost, records) in zip(CALLBACKS, recorded, strict=True):
            assert taken == list(range(start + first_step(name), start + 7))
            assert (records, lost) == (len(taken), 0)
            assert rows > records
    assert {path.name for path in tmp_path.iterdir()} == {"0", "both"}
    for folder in ("0", "both"):
        files = [
            len(list((tmp_path / folder / callback.run).iterdir()))
            for callback in CALLBACKS.values()
        ]
        assert files == [1] * len(CALLBACKS)


def test_layers_that_fit_builds_are_found_by_their_kernel(tmp_path):
    """Keras builds them after `on_train_begin`."""
    model = keras.Sequential([keras.layers.Dense(4, name="one"), keras.layers.Dense(1, name="two")])
    model.compile("sgd", "mse")
    callback = CALLBACKS["CovariateShift"](tmp_path, X)
    model.fit(X, Y, verbose=0, callbacks=[callback])
    assert {row.layer for row in callback.history} == {"one", "two", "record"}


def test_a_relative_log_dir_does_not_follow_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    callback = CALLBACKS["LossLandscape"]("log", (X, Y), every_steps=1)
    move = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: monkeypatch.chdir(tmp_path / "elsewhere")
    )
    with user_warnings() as texts:
        compiled(functional()).fit(X, Y, verbose=0, callbacks=[callback, move])
    assert (texts, callback.lost_records) == ([], 0)
    assert not (tmp_path / "elsewhere/log").exists()


def test_a_second_fit_leaves_the_first_ones_summary(tmp_path):
    callback = CALLBACKS["CovariateShift"](tmp_path, X, every_steps=2)
    model = compiled(functional())
    for _ in range(2):
        model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert list(events.series(tmp_path / callback.run, "monitor/cost")) == [3, 6]


class MoreStepsLater(Own):
    """Makes one step a batch, and from the eighth batch on four."""

    def train_step(self, data):
        for _ in range(4 if int(self.optimizer.iterations) >= 7 else 1):
            logs = super().train_step(data)
        return logs


def test_no_record_is_missed_if_a_batch_takes_more_steps_than_before(tmp_path):
    model = compiled(MoreStepsLater(), run_eagerly=True)
    callback = kbn.callbacks.CovariateShift(tmp_path, X, every_steps=15)
    with user_warnings():
        model.fit(
            X, Y, batch_size=6, epochs=2, verbose=0, callbacks=[callback]
        )  # 10 batches an epoch
    assert int(model.optimizer.iterations) == 7 + 4 * 13
    assert steps(callback) == [0, 19, 43, 47]  # the second one at the end of the epoch
