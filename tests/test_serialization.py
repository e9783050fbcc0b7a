import keras
import numpy as np
import pytest

import kbn

X = np.random.default_rng(0).normal(3, 2, (16, 6)).astype("float32")
OPTIONS = {"axis": 1, "momentum": 0.8, "epsilon": 1e-5, "scale": False, "unbiased_variance": False}


def trained(layer):
    model = keras.Sequential([keras.layers.Input((6,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0)
    return model


@pytest.mark.parametrize(
    "options", [{}, OPTIONS, {"momentum": None}], ids=["default", "all", "none"]
)
def test_a_saved_model_predicts_and_goes_on_the_same(options, tmp_path):
    model = trained(kbn.BatchNormalization(**options))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is kbn.BatchNormalization
    np.testing.assert_array_equal(model.predict(X, verbose=0), loaded.predict(X, verbose=0))
    for one in (model, loaded):
        one.fit(X, X[:, :1], verbose=0, shuffle=False)
    np.testing.assert_array_equal(model.layers[0].moving_mean, loaded.layers[0].moving_mean)


@pytest.mark.parametrize(
    "options", [{}, OPTIONS, {"momentum": None}], ids=["default", "all", "none"]
)
def test_config_and_clone_keep_every_option(options):
    layer = kbn.BatchNormalization(**options)
    again = kbn.BatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = keras.Sequential([keras.layers.Input((6,)), layer])
    clone = keras.models.clone_model(model).layers[0]
    assert clone.get_config() == layer.get_config()
    for name, value in options.items():
        assert getattr(clone, name) == value


def test_registered_under_the_package_name():
    name = keras.saving.get_registered_name(kbn.BatchNormalization)
    assert name == "kbn>BatchNormalization"


def test_weights_move_to_keras_and_back(tmp_path):
    theirs, ours = trained(keras.layers.BatchNormalization()), trained(kbn.BatchNormalization())
    names = [[w.path.split("/")[-1] for w in m.layers[0].weights] for m in (theirs, ours)]
    assert names[0] == names[1]
    for source, target in ((theirs, ours), (ours, theirs)):
        source.fit(X, X[:, :1], verbose=0)
        target.set_weights(source.get_weights())
        np.testing.assert_allclose(
            source.predict(X, verbose=0), target.predict(X, verbose=0), atol=1e-5
        )
        source.fit(X, X[:, :1], verbose=0)
        source.save_weights(tmp_path / "w.weights.h5")
        target.load_weights(tmp_path / "w.weights.h5")
        np.testing.assert_array_equal(
            np.concatenate(source.layers[0].get_weights()),
            np.concatenate(target.layers[0].get_weights()),
        )


def test_is_a_keras_batch_normalization():
    assert isinstance(kbn.BatchNormalization(), keras.layers.BatchNormalization)


def test_a_keras_config_makes_a_layer_of_ours_and_old_axis_lists_are_read():
    config = keras.layers.BatchNormalization(momentum=0.7).get_config()
    assert kbn.BatchNormalization.from_config(config).momentum == 0.7
    assert kbn.BatchNormalization.from_config({**config, "axis": [3]}).axis == 3


def test_a_process_that_imports_the_layer_loads_the_file(tmp_path, python):
    trained(kbn.BatchNormalization()).save(tmp_path / "model.keras")
    code = (
        "from kbn import BatchNormalization; import keras;"
        "print(type(keras.models.load_model('model.keras').layers[0]) is BatchNormalization)"
    )
    assert python("-c", code).stdout.strip() == "True"
