"""A folder per model: paths with fields, and functions of the model."""

import re

import keras
import numpy as np
import pytest

from kbn.callbacks import CovariateShift, LossLandscape
from kbn.callbacks.recording.log_dirs import checked_log_dir, folder_of
from tests.support.callbacks import CALLBACKS, steps

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def network(name=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")], name=name)
    model.compile("sgd", "mse")
    return model


def fit(model, *callbacks, **options):
    model.fit(X, X[:, :2], verbose=0, callbacks=[*callbacks], **options)


def runs(folder):
    """Return the folders that hold an event file, relative to `folder`."""
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("*tfevents*"))


@pytest.mark.basic("a field")
@pytest.mark.parametrize("kind", ["a field", "a function"])
def test_one_callback_serves_many_models(kind, tmp_path):
    log_dir = tmp_path / "{trial}" if kind == "a field" else lambda model: tmp_path / model.name
    shift = CovariateShift(log_dir, X, every_steps=1)
    for name in ("0", "1", "2"):
        model = network(name)
        fit(model, shift)
        assert steps(shift) == [0, 1]  # the history is that of the last model
        assert shift.directory == str(tmp_path / name / "covariate_shift")
    fit(model, shift)
    assert steps(shift) == [0, 1, 2]
    assert runs(tmp_path) == sorted(f"{n}/covariate_shift" for n in (0, 1, 2, 2))


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.basic("MovingStatistics")
def test_a_later_model_is_recorded_like_the_first(name, tmp_path):
    def made(folder):
        return CALLBACKS[name](folder, (X, X[:, :2]), every_steps=1)

    def model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.BatchNormalization(name="bn"),
                keras.layers.Dense(2, name="dense"),
            ]
        )
        model.compile("sgd", "mse")
        return model

    again, alone = made(tmp_path / "{trial}"), made(tmp_path / "alone")
    fit(model(), again, epochs=2)
    fit(model(), again)
    fit(model(), alone)
    assert [row for row in again.history if row.layer != "record"] == [
        row for row in alone.history if row.layer != "record"
    ]


@pytest.mark.thorough
def test_all_callbacks_of_a_model_share_its_folder(tmp_path):
    log_dir = tmp_path / "{trial:02d}" / "{model}"
    callbacks = [CovariateShift(log_dir, X), LossLandscape(log_dir, (X, X[:, :2]))]
    for _ in range(2):
        fit(network("net"), *callbacks)
    assert runs(tmp_path) == [
        f"{number}/net/{run}"
        for number in ("00", "01")
        for run in ("covariate_shift", "loss_landscape")
    ]


def test_a_trial_takes_the_first_number_whose_folder_does_not_exist(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "2").mkdir()
    models = [network(), network()]
    assert [folder_of(f"{tmp_path}/{{trial}}", model) for model in models] == [
        f"{tmp_path}/1", f"{tmp_path}/3",
    ]  # fmt: skip
    assert folder_of(f"{tmp_path}/{{trial}}", models[0]) == f"{tmp_path}/1"


def test_the_time_is_that_of_the_first_fit_of_the_model(tmp_path):
    model = network("net")
    first = folder_of(f"{tmp_path}/{{time}}-{{model}}", model)
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/\d{{8}}-\d{{6}}-net", first)
    assert folder_of(f"{tmp_path}/{{time}}-{{model}}", model) == first


@pytest.mark.thorough
def test_a_function_is_called_once_per_model(tmp_path):
    calls = []

    def log_dir(model):
        calls.append(model.name)
        return tmp_path / str(len(calls))

    callbacks = [CovariateShift(log_dir, X), LossLandscape(log_dir, (X, X[:, :2]))]
    for name in ("one", "two"):
        model = network(name)
        fit(model, *callbacks)
        fit(model, *callbacks)
    assert calls == ["one", "two"]
    assert {*runs(tmp_path)} == {
        f"{number}/{run}" for number in (1, 2) for run in ("covariate_shift", "loss_landscape")
    }


def test_a_fit_that_fails_leaves_its_number_free(tmp_path):
    with pytest.raises(ValueError, match="The model cannot be run on probe_data"):
        fit(network(), CovariateShift(tmp_path / "{trial}", X[:, :3]))
    assert list(tmp_path.iterdir()) == []
    fit(network(), CovariateShift(tmp_path / "{trial}", X))
    assert runs(tmp_path) == ["0/covariate_shift"]


@pytest.mark.thorough
def test_a_trial_in_a_file_system_that_does_not_exist_raises_what_to_do():
    with pytest.raises(OSError, match=r"log_dir cannot be written .*Received: log_dir='foo://a/"):
        fit(network(), CovariateShift("foo://a/{trial}", X))


def test_braces_that_mean_themselves(tmp_path):
    shift = CovariateShift(f"{tmp_path}/{{{{a}}}}", X)
    assert shift.directory == f"{tmp_path}/{{a}}/covariate_shift"


def test_a_field_in_another_file_system():
    model = network()
    assert folder_of("ram://kbn-fields/{trial}", model) == "ram://kbn-fields/0"
    assert folder_of("ram://kbn-fields/{trial}", network()) == "ram://kbn-fields/1"


@pytest.mark.parametrize(
    ("log_dir", "message"),
    [
        ("runs/{try}", "log_dir may have the fields {model} (the name of the model), {time} ("),
        ("runs/{try}", "runs/{try}' with {try}"),
        ("runs/{}", "with {}"),
        ("runs/{trial:>z}", "The format of a field of log_dir is not allowed"),
        ("runs/{trial", "log_dir must have a closing brace for each opening one"),
    ],
)
def test_other_fields_raise_at_construction(log_dir, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_log_dir(log_dir)


def test_a_function_that_returns_no_path_raises_before_the_first_step():
    model = network()
    with pytest.raises(TypeError, match="log_dir must be a path"):
        fit(model, CovariateShift(lambda model: None, X))
    assert int(model.optimizer.iterations.numpy()) == 0


def test_the_folder_is_unknown_before_fit(tmp_path):
    shift = CovariateShift(tmp_path / "{trial}", X)
    message = (
        "no folder before fit, because log_dir depends on the model. "
        f"Received: log_dir='{tmp_path}/{{trial}}'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = shift.directory
