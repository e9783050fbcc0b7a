"""Any model: whatever `fit` trains can be watched to the end, and the numbers are right.

The answers come from the weights before and after the last call of the training function, and from
Keras: a tape around `compute_loss`, and `evaluate`.
"""

import json
import math
import re
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kbn
from kbn import tags
from kbn.callbacks.probe_data import first_batch
from kbn.tags import Tap
from tests import events, models
from tests.hooks import HOOKS, first_step, open_files, steps
from tests.test_gradient_shift import by_layer, scalar_net
from tests.test_replicas import run_workers
from tests.warned import user_warnings

X, Y = models.X, models.Y
BATCH, PROBE = 20, 16  # 3 steps an epoch
WITHOUT_LOSS = ("CovariateShift", "MovingStatistics")
WEIGHT = np.linspace(0.1, 2, 60).astype("float32")


class Own(keras.Model):
    """Built by its first call."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, name="dense")
        self.bn = kbn.BatchNormalization(name="bn")
        self.head = layers.Dense(1, name="head")

    def call(self, x, training=False):
        return self.head(self.bn(self.dense(x), training=training))


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
    """Nobody but `train_step` knows of its loss."""

    def loss_of(self, x, y):
        return tf.reduce_mean(tf.square(self(x, training=True) - y))


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


def functional():
    inputs = keras.Input((6,))
    x = kbn.BatchNormalization(name="bn")(layers.Dense(4, name="dense")(inputs))
    return keras.Model(inputs, layers.Dense(1, name="head")(x))


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


def compiled(model, optimizer="sgd", loss="mse", **options):
    model.compile(optimizer, loss, **options)
    return model


def sgd(**options):
    return keras.optimizers.SGD(0.05, **options)


def ema():
    return sgd(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)


class Run(NamedTuple):
    """A `fit` that was watched.

    Attributes:
        model: the model.
        hooks: its hooks, by name.
        before: all weights before the last call of the training function.
        after: and after it.
        texts: what users were warned of, but for advice.
    """

    model: keras.Model
    hooks: dict[str, Any]
    before: list[np.ndarray]
    after: list[np.ndarray]
    texts: list[str]


def made(names, folder, probe, **options):
    options = {"every_steps": 1, "probe_size": PROBE, **options}
    return {name: HOOKS[name](folder, probe, **options) for name in names}


def trained(model, folder, x=X, y=Y, weight=None, *, names=HOOKS, more=(), layers=None, **options):
    """Train for two epochs with a record of every step."""
    probe = x if y is None else (x, y) if weight is None else (x, y, weight)
    hooks = made(names, folder, probe)
    for name in {"CovariateShift", "GradientShift"} & set(names):
        hooks[name].layers = layers
    kept = {}
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: kept.update(before=model.get_weights()),
        on_train_batch_end=lambda batch, logs: kept.update(after=model.get_weights()),
    )
    options = {"batch_size": BATCH, "epochs": 2, "verbose": 0, **options}
    with user_warnings() as texts:
        model.fit(x, y, sample_weight=weight, callbacks=[keep, *hooks.values(), *more], **options)
    texts = [text for text in texts if "inference will be off" not in text]
    return Run(model, hooks, kept["before"], kept["after"], texts)


def values(hook, layer, site="probe", step=None):
    """Return the measures of a place at a step, the last one where none is named."""
    step = steps(hook)[-1] if step is None else step
    return {r.measure: r.value for r in hook.history if r[:3] == (step, layer, site)}


def assert_recorded(run, expected, folder):
    """Training went on to its last step, and every step has a record in a run of its own."""
    assert int(run.model.optimizer.iterations.numpy()) == expected[-1]
    assert run.texts == []
    assert open_files(folder) == []
    assert {path.name for path in folder.iterdir()} == {hook.run for hook in run.hooks.values()}
    for name, hook in run.hooks.items():
        assert hook.lost_records == 0
        assert steps(hook) == [step for step in expected if step >= first_step(name)]
        assert len(list((folder / hook.run).iterdir())) == 1
        assert [row for row in hook.history if not math.isfinite(row.value)] == []


def assert_right(run, tolerance=1e-3):
    """Every hook's last record has the numbers of the weights that training ended with."""
    model, hooks, batch = run.model, run.hooks, next(iter(run.hooks.values())).probe
    if "CovariateShift" in hooks:
        probe = hooks["CovariateShift"].probe
        dense, last = model.get_layer("dense"), hooks["CovariateShift"]
        inputs = probe["a"] if isinstance(probe, dict) else probe
        found, y = values(last, "dense", "output"), inputs @ dense.kernel.numpy() + dense.bias
        assert found["mean"] == pytest.approx(y.numpy().mean(), rel=tolerance, abs=tolerance)
        assert found["std"] == pytest.approx(y.numpy().std(), rel=tolerance)
    if "GradientShift" in hooks:
        batch = hooks["GradientShift"].probe
        found = values(hooks["GradientShift"], "head")
        expected = shift_by_hand(run, ("dense", "bn"), batch)
        assert found["gradient_shift"] == pytest.approx(expected, rel=tolerance, abs=1e-6)
        assert expected > 1e-3
    if "LossLandscape" in hooks:
        batch = hooks["LossLandscape"].probe
        loss = float(loss_at(model, run.after, batch))
        found = values(hooks["LossLandscape"], tags.MODEL)["loss"]
        assert found == pytest.approx(loss, rel=tolerance)
    if "MovingStatistics" in hooks:
        batch = hooks["MovingStatistics"].probe
        found = values(hooks["MovingStatistics"], tags.MODEL)
        if "LossLandscape" in hooks:
            assert found["loss_training"] == pytest.approx(loss, rel=tolerance)
            assert found["loss_inference"] == pytest.approx(evaluated(model, batch), rel=tolerance)
        else:
            assert found == {}
        bn, y = model.get_layer("bn"), layer_input(model, batch)
        gap = np.abs(y.mean(0) - bn.moving_mean) / np.sqrt(bn.moving_variance + bn.epsilon)
        found = values(hooks["MovingStatistics"], "bn")["mean_gap"]
        assert found == pytest.approx(gap.mean(), rel=tolerance)


def layer_input(model, batch):
    """Return what the normalization layer sees of the batch."""
    return keras.ops.convert_to_numpy(model.get_layer("dense")(batch.x)).astype("float32")


def loss_at(model, weights, batch):
    """Return the loss in training mode at these weights, and leave the model with them."""
    model.set_weights(weights)
    loss = model.compute_loss(
        batch.x, batch.y, model(batch.x, training=True), batch.sample_weight, training=True
    )
    model.set_weights(weights)
    return loss


def shift_by_hand(run, earlier, batch, own="head"):
    """Return ‖G − G'‖₂ of a layer, those before it being `earlier`."""
    new = {v.path for name in earlier for v in run.model.get_layer(name).trainable_variables}
    together = zip(run.model.weights, run.before, run.after, strict=True)
    mixed = [b if v.path in new else a for v, a, b in together]
    gradients = []
    for weights in (run.before, mixed):
        variables = [v.value for v in run.model.get_layer(own).trainable_variables]
        with tf.GradientTape() as tape:
            loss = loss_at(run.model, weights, batch)
        parts = tape.gradient(loss, variables)
        gradients.append(np.concatenate([np.ravel(part).astype("float64") for part in parts]))
    run.model.set_weights(run.after)
    return np.linalg.norm(gradients[0] - gradients[1])


def evaluated(model, batch):
    """Return the loss that Keras tells of the batch."""
    told = model.evaluate(batch.x, batch.y, PROBE, 0, sample_weight=batch.sample_weight)
    return float(np.ravel(told)[0])


# Of two epochs of three batches.
EVERY_STEP = [0, 1, 2, 3, 4, 5, 6]
SCENARIOS = {
    "own train_step": (lambda: compiled(OwnStep()), EVERY_STEP),
    "several steps in train_step": (lambda: compiled(SeveralSteps()), [0, 3, 6, 9, 12, 15, 18]),
    "unbuilt subclassed": (lambda: compiled(Own()), EVERY_STEP),
    "unbuilt Sequential": (lambda: compiled(unbuilt()), EVERY_STEP),
    "accumulated gradients": (
        lambda: compiled(functional(), sgd(gradient_accumulation_steps=2)),
        [0, 1, 2, 3],
    ),
    "moving average of weights": (lambda: compiled(functional(), ema()), EVERY_STEP),
    "run_eagerly": (lambda: compiled(functional(), run_eagerly=True), EVERY_STEP),
    "jit_compile": (lambda: compiled(functional(), jit_compile=True), EVERY_STEP),
    "steps_per_execution": (
        lambda: compiled(functional(), steps_per_execution=2),
        [0, 2, 3, 5, 6],
    ),
    "frozen layer": (lambda: compiled(frozen("dense")), EVERY_STEP),
    "frozen normalization": (lambda: compiled(frozen("bn")), EVERY_STEP),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_trains_is_watched(scenario, tmp_path):
    build, expected = SCENARIOS[scenario]
    run = trained(build(), tmp_path)
    if scenario == "accumulated gradients":  # its first record is of a call that made no step
        assert steps(run.hooks["GradientShift"])[0] == 0
        expected_of_shift = values(run.hooks["GradientShift"], "head", step=0)
        assert expected_of_shift["gradient_shift"] == 0
