"""`watching`: callbacks in loops of one's own, next to the same training by `fit`."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.callbacks import CovariateShift, MovingStatistics, watching
from kbn.records import catalogue, tags
from tests.support import events
from tests.support.callbacks import CALLBACKS, first_step, steps
from tests.support.on_backend import array, assert_close, own_step
from tests.support.warned import user_warnings

X = np.random.default_rng(0).normal(3, 2, (48, 8)).astype("float32")
Y = (X.sum(1, keepdims=True) > 24).astype("float32")
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)]


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, name="dense"),
            kbn.BatchNormalization(momentum=0.1, name="bn"),
            layers.Dense(1, name="head"),
        ]
    )


def compiled():
    model = network()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def values(callback):
    return [row for row in callback.history if row.layer not in ("record",)]


@pytest.mark.parametrize("kind", ["tape", "train_on_batch"])
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.basic("CovariateShift-train_on_batch", "GradientShift-tape")
def test_a_loop_is_recorded_as_fit_is(name, kind, tmp_path):
    model, recorded = compiled(), CALLBACKS[name](tmp_path / "loop", (X, Y), every_steps=1)
    one_step = own_step(model, model.optimizer)
    with watching([recorded], model, epochs=2, steps=3) as watch:
        for _ in range(2):
            for x, y in BATCHES:
                if kind == "tape":
                    logs = one_step(x, y)
                else:
                    logs = model.train_on_batch(x, y, return_dict=True)
                watch.step(logs)
            watch.end_epoch()
    fitted, expected = compiled(), CALLBACKS[name](tmp_path / "fit", (X, Y), every_steps=1)
    fitted.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[expected])
    assert steps(recorded) == list(range(first_step(name), 7))
    assert [row[:4] for row in values(recorded)] == [row[:4] for row in values(expected)]
    numbers = ([row.value for row in values(each)] for each in (recorded, expected))
    assert_close(*numbers, rtol=1e-3, atol=1e-5)
    assert recorded.lost_records == 0


@pytest.mark.parametrize("make", [CovariateShift, MovingStatistics])
def test_an_uncompiled_model_is_watched_without_a_loss(make, tmp_path):
    model, callback = network(), make(tmp_path, X, every_steps=2)
    optimizer = keras.optimizers.Adam()
    one_step = own_step(model, optimizer)
    optimizer.build(model.trainable_variables)
    with watching(callback, model) as watch:
        for x, y in BATCHES:
            watch.step(one_step(x, y))
    assert steps(callback) == [0, 2]
    assert callback.lost_records == 0


@pytest.mark.thorough
def test_a_model_that_runs_several_batches_at_once_in_fit_counts_the_steps_of_the_loop(tmp_path):
    model = network()
    model.compile(loss="mse", steps_per_execution=4)
    callback = CovariateShift(tmp_path, X, every_steps=2)
    one_step = own_step(model, keras.optimizers.SGD())  # not the one that it was compiled with
    with watching(callback, model) as watch:
        for x, y in [*BATCHES, *BATCHES]:
            watch.step(one_step(x, y))
    assert steps(callback) == [0, 2, 4, 6]


def test_the_settings_say_that_a_loop_may_train_on_another_loss(tmp_path):
    model, callback = compiled(), CALLBACKS["LossLandscape"](tmp_path, (X, Y))
    with watching(callback, model) as watch:
        watch.step(model.train_on_batch(*BATCHES[0], return_dict=True))
    settings = events.text(tmp_path / callback.run, catalogue.SETTINGS)
    assert "compute_loss; the loop may use another one |" in settings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "GradientShift",
            "GradientShift needs the loss, but the model .* has none. Pass loss= to its compile",
        ),
        ("LossLandscape", "needs the learning rate, but the model has no optimizer"),
    ],
)
def test_what_needs_a_loss_says_so_before_the_first_step(name, message, tmp_path):
    callback = CALLBACKS[name](tmp_path / "log", X)
    with pytest.raises(ValueError, match=message), watching(callback, network()):
        pass
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", ["GradientShift", "LossLandscape", "MovingStatistics"])
def test_a_loop_trains_on_more_than_the_losses_of_regularizers(name, tmp_path):
    """They alone would give a gradient shift of 0, and a loss that nobody trains on."""
    dense = keras.layers.Dense(1, kernel_regularizer="l2")
    bn = kbn.BatchNormalization(name="bn_at_the_end")
    model = keras.Sequential([network(), dense, bn])
    model.compile("sgd")
    callback = CALLBACKS[name](tmp_path / "log", (X, Y), every_steps=1)
    if name == "MovingStatistics":  # it needs no loss
        with user_warnings(), watching(callback, model) as watch:
            watch.step()
        assert tags.MODEL not in {row.layer for row in callback.history}
        return
    message = f"{name} needs the loss, .* model.loss=None, with regularizers and trained by a loop"
    with pytest.raises(ValueError, match=message), watching(callback, model):
        pass


def test_callbacks_of_keras_work_too():
    model = compiled()
    history, seen = keras.callbacks.History(), []
    stop = keras.callbacks.EarlyStopping("val_loss", patience=0)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    batches = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(batch),
        on_train_batch_end=lambda batch, logs: seen.append(-batch),
    )
    with watching([stop, rates, batches, history], model, epochs=9, steps=3) as watch:
        while not watch.stop_training:
            for x, y in BATCHES:
                watch.step(model.train_on_batch(x, y, return_dict=True))
            watch.end_epoch({"val_loss": 1.0})
    assert history.history["val_loss"] == [1.0, 1.0]
    assert_close(history.history["learning_rate"], [0.1, 0.05])
    # The third epoch had begun before the loop asked whether to stop.
    assert seen == [0, 0, 1, -1, 2, -2, 0, 0, 1, -1, 2, -2, 0]


def test_recalibration_at_the_end_of_a_loop():
    model = compiled()
    with watching(kbn.callbacks.Recalibrate(X), model, epochs=1) as watch:
        for x, y in BATCHES:
            watch.step(model.train_on_batch(x, y, return_dict=True))
    expected = array(model.get_layer("dense")(X)).mean(0)
    assert_close(model.get_layer("bn").moving_mean, expected, rtol=1e-4)


def test_a_resumed_loop_begins_at_its_epoch():
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda n, logs: epochs.append(n))
    with watching(callback, compiled(), epochs=4, initial_epoch=2) as watch:
        for _ in range(2):
            watch.step()
            watch.end_epoch()
    assert epochs == [2, 3]


def before_it(watch):
    watch.step()


def after_it(watch):
    with watch:
        watch.step()
    watch.step()


def end_after_it(watch):
    with watch:
        watch.step()
    watch.end_epoch()


def too_many_steps(watch):
    with watch:
        for _ in range(3):
            watch.step()


def an_epoch_without_a_step(watch):
    with watch:
        watch.end_epoch()


def too_many_epochs(watch):
    with watch:
        for _ in range(3):
            watch.step()
            watch.end_epoch()


def twice(watch):
    with watch:
        watch.step()
    with watch:
        watch.step()


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (before_it, "step must be called inside `with kbn.callbacks.watching(…) as watch:`. "
                    "Received: a call before it"),
        (after_it, "Received: a call after it"),
        (end_after_it, "end_epoch must be called inside `with kbn.callbacks.watching(…)"),
        (too_many_steps, "call end_epoch before the next step. Received: step 3 with steps=2"),
        (an_epoch_without_a_step, "Call step before end_epoch. Received: end_epoch in epoch 0"),
        (too_many_epochs, "All epochs are over. Received: step after epoch 2 of 2"),
        (twice, "This watch has begun already"),
    ],
)  # fmt: skip
def test_calls_out_of_order_raise(loop, message, tmp_path):
    watch = watching(CovariateShift(tmp_path, X), compiled(), epochs=2, steps=2)
    with pytest.raises(ValueError, match=re.escape(message)):
        loop(watch)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"callbacks": ["shift"]}, TypeError, "must be Keras callbacks. Received: 'shift'"),
        ({"model": layers.Dense(1)}, TypeError, "model must be the keras.Model of the loop"),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1. Received: epochs=0"),
        ({"steps": 2.5}, TypeError, "Received: steps=2.5"),
        ({"initial_epoch": -1}, ValueError, "Received: initial_epoch=-1"),
        ({"initial_epoch": 2, "epochs": 2}, ValueError, "Received: initial_epoch=2, epochs=2"),
    ],
)
def test_wrong_arguments_raise(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        watching(**{"callbacks": [], "model": network(), **arguments})


def interrupted(callback, model):
    with watching(callback, model) as watch:
        watch.step(model.train_on_batch(*BATCHES[0], return_dict=True))
        raise KeyboardInterrupt


def test_logs_that_are_no_dict_raise(tmp_path):
    model = compiled()
    watch = watching(CovariateShift(tmp_path, X), model)
    message = "From train_on_batch, pass return_dict=True. Received: logs="
    with pytest.raises(TypeError, match=message), watch:
        watch.step(model.train_on_batch(*BATCHES[0]))


def test_an_exception_ends_the_loop_as_it_ends_fit(tmp_path):
    model, callback = compiled(), CovariateShift(tmp_path, X, every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        interrupted(callback, model)
    assert steps(callback) == [0, 1]
    with watching(callback, model) as watch:  # the same callback goes on
        watch.step(model.train_on_batch(*BATCHES[1], return_dict=True))
    assert steps(callback) == [0, 1, 2]


def test_calls_in_the_wrong_order_by_hand_say_what_is_missing(tmp_path):
    callback = CovariateShift(tmp_path, X)
    callback.set_model(compiled())
    with pytest.raises(ValueError, match="has no session before fit"):
        callback.on_train_batch_end(0)
