"""What all callbacks promise, on every kind of model and in every mode of training."""

import contextlib
import functools
import re

import keras
import numpy as np
import pytest

from kbn import backend
from kbn.backend import portable
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.probe_data import Batch
from kbn.records import catalogue, tags
from kbn.records.tags import Place
from tests.support import events, models
from tests.support.callbacks import CALLBACKS, first_step, losses_of_both_modes, open_files, steps
from tests.support.on_backend import BACKEND, array, on_tensorflow
from tests.support.replicas import mirrored
from tests.support.warned import user_warnings

BATCH = 20  # 3 steps an epoch


def trained(kind, callbacks, scope=contextlib.nullcontext, **options):
    """Train, and return everything that training left behind."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(7)
    with scope():
        model = models.compiled(kind, **options)
    fitted = fit(model, kind, callbacks, epochs=2, validation_data=models.data(kind))
    variables = [array(v) for v in (*model.variables, *model.optimizer.variables)]
    return model, variables, fitted.history


@functools.cache
def plain(kind, replicated=False, **options):
    """Train without a callback, once for all callbacks."""
    return trained(kind, [], mirrored().scope if replicated else contextlib.nullcontext, **options)


def fit(model, kind, callbacks, **options):
    x, y = models.data(kind)
    with user_warnings():  # MovingStatistics': inference is off after so few steps
        return model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks, **options)


def made(name, folder, kind="functional", **options):
    return CALLBACKS[name](folder, models.data(kind, 16), **{"every_steps": 1, **options})


def all_of_them(folder, kind="functional"):
    """One of each, and CovariateShift on every layer."""
    return {name: made(name, folder, kind, **({"layers": "*"} if name == "CovariateShift" else {}))
            for name in CALLBACKS}  # fmt: skip


def assert_the_same(unwatched, watched):
    (_, variables, history), (_, others, watched_history) = unwatched, watched
    assert history == watched_history
    assert len(variables) == len(others)
    for one, other in zip(variables, others, strict=True):
        np.testing.assert_array_equal(one, other)


every_callback = pytest.mark.parametrize("name", CALLBACKS)
every_kind = pytest.mark.parametrize("kind", models.EVERY_KIND)


def assert_recorded(name, callback, folder):
    """Every step has a record, equal to what was written, and nothing is left open."""
    assert steps(callback) == list(range(first_step(name), 7))
    assert callback.lost_records == 0
    assert open_files(folder) == []
    kept = {
        (r.step, tags.tag(r.measure, Place(r.layer, r.site))): r.value for r in callback.history
    }
    written = {
        (step, tag): float(value)
        for tag in {tag for _, tag in kept}
        for step, value in events.series(folder / callback.run, tag).items()
    }
    assert repr(sorted(written.items())) == repr(sorted(kept.items()))  # NaN is no other NaN


@pytest.mark.basic("functional-*")
@every_callback
@every_kind
def test_training_ends_bit_for_bit_the_same(name, kind, tmp_path):
    call = keras.layers.Layer.__call__
    callback = made(name, tmp_path, kind)
    watched = trained(kind, [callback])
    assert_the_same(plain(kind), watched)
    assert_recorded(name, callback, tmp_path)
    assert keras.layers.Layer.__call__ is call
    assert watched[0].losses == []


MODES = {
    "XLA": lambda: {"jit_compile": True},
    "eagerly": lambda: {"run_eagerly": True},
    "two replicas": lambda: {"scope": mirrored().scope},
}
if BACKEND != "tensorflow":
    # JAX compiles with XLA in the other tests too, and PyTorch has none.
    del MODES["two replicas"], MODES["XLA"]


@pytest.mark.basic("XLA-functional")
@every_kind
@pytest.mark.parametrize("mode", MODES)
def test_training_is_the_same_in_other_modes_too(mode, kind, tmp_path):
    """All callbacks in one fit: compiling and tracing take seconds."""
    callbacks = all_of_them(tmp_path, kind)
    watched = trained(kind, [*callbacks.values()], **MODES[mode]())
    assert_the_same(trained(kind, [], **MODES[mode]()), watched)
    for name, callback in callbacks.items():
        assert_recorded(name, callback, tmp_path)


@pytest.mark.thorough
@on_tensorflow
@every_callback
def test_training_is_the_same_on_two_replicas_too(name, tmp_path):
    callback = made(name, tmp_path)
    watched = trained("functional", [callback], mirrored().scope)
    assert_the_same(plain("functional", replicated=True), watched)
    assert_recorded(name, callback, tmp_path)


@pytest.mark.basic("True")
@on_tensorflow
@pytest.mark.parametrize("inside", [False, True])
def test_on_two_replicas_a_record_is_that_of_one_device(inside, tmp_path):
    """The same weights, the same probe: the same numbers, wherever the variables lie."""
    with mirrored().scope():
        model = models.compiled("functional")
    model.optimizer.learning_rate.assign(0.0)
    alone = models.compiled("functional")
    alone.optimizer.learning_rate.assign(0.0)
    alone.set_weights(model.get_weights())
    for name in ("CovariateShift", "LossLandscape", "MovingStatistics"):
        callbacks = [made(name, tmp_path / str(i) / name, on_steps=[10**6], every_steps=None)
                 for i in range(2)]  # fmt: skip
        with mirrored().scope() if inside else contextlib.nullcontext():
            fit(model, "functional", [callbacks[0]], steps_per_epoch=1)
        fit(alone, "functional", [callbacks[1]], steps_per_epoch=1)
        alone.set_weights(model.get_weights())  # moving statistics of replicas differ
        rows = [
            [r for r in callback.history if r.measure != catalogue.MONITOR]
            for callback in callbacks
        ]
        assert [r[1:4] for r in rows[0]] == [r[1:4] for r in rows[1]]
        np.testing.assert_allclose(
            *([r.value for r in each] for each in rows), rtol=1e-4, atol=1e-6
        )


@pytest.mark.basic("LossLandscape")
@every_callback
def test_two_callbacks_of_a_class_in_one_folder_warn(name, tmp_path):
    """TensorBoard would show the second one alone."""
    callbacks = [made(name, tmp_path) for _ in range(2)]
    with user_warnings() as texts:
        models.compiled("functional").fit(
            *models.data("functional"), verbose=0, callbacks=callbacks
        )
    taken = str(tmp_path / callbacks[0].run)
    others = [text for text in texts if "inference will be off" not in text]
    assert len(others) == 1
    assert others[0].startswith(
        f"{taken!r} contains another run, and TensorBoard will show this run"
    )
    assert others[0].endswith(" for each callback of the same class.")


@pytest.mark.basic("MovingStatistics")
@every_callback
def test_a_second_fit_continues(name, tmp_path):
    model = models.compiled("functional")
    callback = made(name, tmp_path)
    fit(model, "functional", [callback])
    rows = len(callback.history)
    fit(model, "functional", [callback])
    expected = list(range(first_step(name), 7))
    assert steps(callback) == expected
    assert len(callback.history) > rows
    files = list((tmp_path / callback.run).glob("events*"))
    assert len(files) == 2
    assert open_files(tmp_path) == []


@pytest.mark.basic("LossLandscape")
@every_callback
def test_another_model_is_refused(name, tmp_path):
    callback = made(name, tmp_path)
    fit(models.compiled("functional"), "functional", [callback])
    other = models.compiled("functional")
    message = (
        rf"This {name} already recorded another model into .*{callback.run}'.*Received: model="
    )
    with pytest.raises(ValueError, match=message):
        fit(other, "functional", [callback])
    assert int(array(other.optimizer.iterations)) == 0


@pytest.mark.basic("CovariateShift")
@every_callback
def test_ending_twice_does_nothing(name, tmp_path):
    callback = made(name, tmp_path)
    fit(models.compiled("functional"), "functional", [callback])
    before = [path.read_bytes() for path in sorted((tmp_path / callback.run).iterdir())]
    callback.on_train_end()
    callback.on_train_end()
    assert [path.read_bytes() for path in sorted((tmp_path / callback.run).iterdir())] == before
    assert open_files(tmp_path) == []


class Stop(keras.callbacks.Callback):
    """Ends training by an exception at the second batch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.basic("GradientShift")
@every_callback
def test_an_exception_in_training_leaves_nothing_behind(name, tmp_path):
    call = keras.layers.Layer.__call__
    model, callback = models.compiled("functional"), made(name, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, "functional", [callback, Stop()])
    assert keras.layers.Layer.__call__ is call
    assert open_files(tmp_path) == []
    step = steps(callback)[-1]
    assert step == 2
    tag = next(
        tags.tag(r.measure, Place(r.layer, r.site)) for r in callback.history if r.step == step
    )
    assert list(events.series(tmp_path / callback.run, tag))[-1] == 2  # on disk already
    fit(model, "functional", [callback])
    assert steps(callback)[-1] == 5


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces nothing")
@every_callback
def test_the_model_is_traced_once_per_probe(name, tmp_path, monkeypatch):
    """However many records there are."""
    from kbn import backend

    traced = []
    original = backend.compile_for
    monkeypatch.setattr(
        backend, "compile_for", lambda *args, **how: traced.append(0) or original(*args, **how)
    )
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            calls.append(0)  # Python runs in a trace alone
            return x

    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4)(Counting()(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    fit(model, "functional", [])
    assert calls  # of training's own trace
    calls.clear()
    callback = made(name, tmp_path)
    fit(model, "functional", [callback], epochs=5)
    most = 3 if name == "MovingStatistics" else 1  # its probe, and the losses of both modes
    assert len(callback.history)
    assert len(traced) <= 2
    assert len(calls) <= most


@pytest.mark.thorough
def test_all_callbacks_together_change_nothing(tmp_path):
    callbacks = all_of_them(tmp_path)
    watched = trained("functional", [*callbacks.values()])
    assert_the_same(plain("functional"), watched)
    for name, callback in callbacks.items():
        assert_recorded(name, callback, tmp_path)


@every_callback
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every_steps": 0}, ValueError, "every_steps must be an integer of at least 1"),
        ({"on_steps": [3], "every_steps": 4}, ValueError, "Received: every_steps=4, on_steps=[3]"),
        ({"probe_size": 0}, ValueError, "Received: probe_size=0"),
        ({"budget": 2}, ValueError, "a share of training time in (0, 1]. Received: budget=2"),
        ({"json_lines": "yes"}, TypeError, "Received: json_lines='yes'"),
        ({"log_dir": 3}, TypeError, "log_dir must be a path. Received: log_dir=3"),
        ({"probe_data": 3}, TypeError, "Received: probe_data=int (3)"),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
def test_wrong_arguments_raise_at_construction(name, options, error, message, tmp_path):
    given = {"log_dir": tmp_path / "log", "probe_data": (models.X, models.Y), **options}
    with pytest.raises(error, match=re.escape(message)):
        CALLBACKS[name](**given)
    assert not (tmp_path / "log").exists()


REFUSED = (
    "Running a model outside the training step is not supported on Keras's numpy backend: use "
    "TensorFlow, JAX or PyTorch for kbn.callbacks and kbn.recalibrate. Received: "
    "KERAS_BACKEND='numpy'"
)


@pytest.fixture
def other_backend(monkeypatch):
    """Return what puts the functions of a backend without support in place of those in use."""

    def switch():
        monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
        for name in backend.__all__:
            if hasattr(portable, name):
                monkeypatch.setattr(backend, name, getattr(portable, name))

    return switch


@every_callback
@pytest.mark.parametrize("built", [True, False])
def test_other_backends_are_refused(name, built, tmp_path, other_backend):
    model = models.compiled("functional" if built else "subclassed")
    other_backend()
    with pytest.raises(NotImplementedError, match=re.escape(REFUSED)):
        fit(model, "functional", [made(name, tmp_path / "log")])
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("probe", [functools.partial(LossProbe, who="test"), losses_of_both_modes])
def test_the_loss_refuses_other_backends_too(probe, other_backend):
    model = models.compiled("functional")
    other_backend()
    with pytest.raises(NotImplementedError, match=re.escape(REFUSED)):
        probe(model, Batch(models.X, models.Y))
