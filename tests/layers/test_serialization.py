import warnings

import keras
import numpy as np
import pytest

import kbn
from tests.support import ROOT
from tests.support.golden import needs_keras_of_golden_files
from tests.support.ids import plain
from tests.support.on_backend import BACKEND, array, assert_close, assert_equal, on_tensorflow, tf

GOLDEN = ROOT / "tests/golden"
X = np.random.default_rng(0).normal(3, 2, (16, 6)).astype("float32")
SCHEDULE = keras.optimizers.schedules.PolynomialDecay(1.0, 100, 3.0)
OPTIONS = {"axis": 1, "momentum": 0.8, "epsilon": 1e-5, "scale": False, "unbiased_variance": False}


def trained(layer):
    model = keras.Sequential([keras.layers.Input((6,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0)
    return model


EVERY = pytest.mark.parametrize(
    "options",
    [
        {},
        OPTIONS,
        {"momentum": None},
        {"zero_debias": True, "momentum": 0.9},
        {"virtual_batch_size": 4},
        {"renorm": True, "renorm_clipping": {"rmax": 2.0}, "zero_debias": True},
        {"renorm": True, "renorm_clipping": {"rmax": SCHEDULE, "dmax": 1.0}},
        {"synchronized": True, "fused": False},
    ],
    ids=plain,
)


@pytest.mark.basic("{}", "{'momentum': None}", "*'rmax': <*", "*synchronized*")
@EVERY
def test_a_saved_model_predicts_and_trains_the_same(options, tmp_path):
    model = trained(kbn.BatchNormalization(**options))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is kbn.BatchNormalization
    assert_equal(model.predict(X, verbose=0), loaded.predict(X, verbose=0))
    for one in (model, loaded):
        one.fit(X, X[:, :1], verbose=0, shuffle=False)
    for value, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert_equal(value, wanted)


@EVERY
def test_config_and_clone_keep_every_option(options):
    layer = kbn.BatchNormalization(**options)
    again = kbn.BatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = keras.Sequential([keras.layers.Input((6,)), layer])
    clone = keras.models.clone_model(model).layers[0]
    assert clone.get_config() == layer.get_config()
    for name, value in options.items():
        if name != "renorm_clipping":
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
        assert_close(source.predict(X, verbose=0), target.predict(X, verbose=0), atol=1e-5)
        source.fit(X, X[:, :1], verbose=0)
        source.save_weights(tmp_path / "w.weights.h5")
        target.load_weights(tmp_path / "w.weights.h5")
        assert_equal(
            np.concatenate(source.layers[0].get_weights()),
            np.concatenate(target.layers[0].get_weights()),
        )


def test_is_a_keras_batch_normalization():
    assert isinstance(kbn.BatchNormalization(), keras.layers.BatchNormalization)


def test_a_keras_config_makes_a_layer_of_ours_and_old_axis_lists_are_read():
    config = keras.layers.BatchNormalization(momentum=0.7).get_config()
    assert kbn.BatchNormalization.from_config(config).momentum == 0.7
    assert kbn.BatchNormalization.from_config({**config, "axis": [3]}).axis == 3


@pytest.mark.thorough
def test_a_process_that_imports_the_layer_loads_the_file(tmp_path, python):
    trained(kbn.BatchNormalization()).save(tmp_path / "model.keras")
    code = (
        "from kbn import BatchNormalization; import keras;"
        "print(type(keras.models.load_model('model.keras').layers[0]) is BatchNormalization)"
    )
    assert python("-c", code).stdout.strip() == "True"


def layer_in_model(cls=kbn.BatchNormalization, **options):
    return keras.Sequential([keras.layers.Input((6,)), cls(**options)])


def saved(model, folder):
    model.save_weights(folder / "w.weights.h5")
    return folder / "w.weights.h5"


@pytest.mark.parametrize("cls", [kbn.BatchNormalization, keras.layers.BatchNormalization])
@pytest.mark.parametrize("way", ["file", "set_weights"])
def test_zero_debias_never_overwrites_loaded_statistics(cls, way, tmp_path):
    source, target = layer_in_model(cls), layer_in_model(zero_debias=True)
    for _ in range(300):
        source(X, training=True)
    if way == "file":
        target.load_weights(saved(source, tmp_path))
    else:
        target.layers[0].set_weights(source.layers[0].get_weights())
    loaded = array(target.layers[0].moving_mean)
    assert_equal(loaded, source.layers[0].moving_mean)
    target(X + 100, training=True)
    wanted = 0.99 * loaded + 0.01 * (X + 100).mean(0)
    assert_close(target.layers[0].moving_mean, wanted, rtol=1e-5)


def test_zero_debias_continues_from_its_own_file(tmp_path):
    source, target = layer_in_model(zero_debias=True), layer_in_model(zero_debias=True)
    source(X, training=True)
    target.load_weights(saved(source, tmp_path))
    for model in (source, target):
        model(X + 1, training=True)
    for value, wanted in zip(target.get_weights(), source.get_weights(), strict=True):
        assert_equal(value, wanted)
    hidden = (0.99 * 0.01 * X.mean(0) + 0.01 * (X + 1).mean(0)) / (1 - 0.99**2)
    assert_close(target.layers[0].moving_mean, hidden, rtol=1e-5)


def test_debias_variables_exist_only_with_zero_debias_and_plain_layers_ignore_them(tmp_path):
    source, plain = layer_in_model(zero_debias=True), layer_in_model()
    assert [w.name for w in plain.layers[0].weights][2:] == ["moving_mean", "moving_variance"]
    assert [w.name for w in source.layers[0].weights][4:] == ["mean_debias", "variance_debias"]
    source(X, training=True)
    plain.load_weights(saved(source, tmp_path))
    assert_equal(plain(X), source(X))


@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize(
    "classes",
    [
        (kbn.BatchNormalization, kbn.BatchNormalization),
        (keras.layers.BatchNormalization, kbn.BatchNormalization),
    ],
    ids=["kbn", "keras"],
)
def test_renorm_and_plain_files_load_into_each_other(renorm, classes, tmp_path):
    source, target = layer_in_model(classes[0], renorm=renorm), layer_in_model(renorm=not renorm)
    source(X, training=True)
    target.load_weights(saved(source, tmp_path))
    assert_close(target(X), source(X), atol=1e-6)
    if not renorm:
        layer = target.layers[0]
        assert_equal(layer.renorm_mean, layer.moving_mean)
        stddev = np.sqrt(array(layer.moving_variance) + 1e-3)
        assert_close(layer.renorm_stddev, stddev, rtol=1e-6)
        assert_close(layer.moving_stddev, stddev, rtol=1e-6)


def test_files_of_kbn_load_into_keras_layer(tmp_path):
    for options in ({}, {"renorm": True}):
        source = layer_in_model(**options)
        source(X, training=True)
        target = layer_in_model(keras.layers.BatchNormalization, **options)
        target.load_weights(saved(source, tmp_path))
        assert_close(target(X), source(X), atol=1e-6)


def test_an_average_by_count_needs_its_counts(tmp_path):
    source, target = layer_in_model(), layer_in_model(momentum=None)
    path = saved(source, tmp_path)
    before = target.get_weights()
    for load in (
        lambda: target.load_weights(path),
        lambda: target.layers[0].set_weights(source.get_weights()),
    ):
        with pytest.raises(
            ValueError, match=r"has no mean_count\. With momentum=None, the average"
        ):
            load()
        for value, old in zip(target.get_weights(), before, strict=True):
            assert_equal(value, old)


def test_variables_that_do_not_fit_raise_with_their_names():
    layer = kbn.BatchNormalization()
    layer.build((None, 6))
    message = r"expects 4 variables of Keras's layer, \['gamma', .*Received: 3 variables"
    with pytest.raises(ValueError, match=message):
        layer.set_weights(layer.get_weights()[:3])


def test_a_value_of_the_wrong_shape_raises_before_any_assignment():
    layer = kbn.BatchNormalization(zero_debias=True)
    layer.build((None, 6))
    values = [np.full(6, 9.0)] * 3 + [np.ones(5)]
    message = r"'moving_variance' of layer '.*' has shape \(6,\)\. Received: .* shape \(5,\)"
    with pytest.raises(ValueError, match=message):
        layer.set_weights(values)
    assert_equal(layer.gamma, np.ones(6))


@EVERY
@on_tensorflow
def test_a_tensorflow_checkpoint_contains_the_whole_state(options, tmp_path):
    source, target = layer_in_model(**options), layer_in_model(**options)
    for _ in range(3):
        source(X, training=True)
    path = tf.train.Checkpoint(model=source).save(str(tmp_path / "c"))
    tf.train.Checkpoint(model=target).restore(path).assert_consumed()
    for model in (source, target):
        model(X + 9, training=True)
    for value, wanted in zip(target.get_weights(), source.get_weights(), strict=True):
        assert_close(value, wanted, rtol=1e-6)


@on_tensorflow
def test_a_tensorflow_checkpoint_moves_between_keras_layer_and_ours(tmp_path):
    ours, theirs = layer_in_model(), layer_in_model(keras.layers.BatchNormalization)
    for source, target in ((ours, theirs), (theirs, ours)):
        source(X, training=True)
        path = tf.train.Checkpoint(model=source).save(str(tmp_path / "c"))
        tf.train.Checkpoint(model=target).restore(path).assert_consumed()
        assert_close(target(X), source(X), atol=1e-5)


def test_saving_and_loading_do_not_warn_about_deprecated_names(tmp_path):
    """Keras reads every attribute that a layer lists, and drops the errors that warnings become."""
    model = trained(kbn.BatchNormalization())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.save(tmp_path / "model.keras")
        keras.models.load_model(tmp_path / "model.keras")
        model.save_weights(tmp_path / "model.weights.h5")
        model.load_weights(tmp_path / "model.weights.h5")
        if BACKEND == "tensorflow":
            model.export(tmp_path / "exported", verbose=False)
    assert [str(each.message) for each in caught if "skipped_updates" in str(each.message)] == []


@needs_keras_of_golden_files
@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in GOLDEN.glob("*/expected.npz")),
    ids=lambda path: path.name,
)
def test_golden_files_predict_as_when_they_were_made(folder):
    """Saved by releases gone by; `tests/golden/README.md` says when they may be made anew."""
    expected = np.load(folder / "expected.npz")
    names = sorted(path.stem for path in folder.glob("*.keras"))
    assert names == sorted(name for name in expected.files if name != "inputs")
    for name in names:
        model = keras.models.load_model(folder / f"{name}.keras")
        assert any(type(layer) is kbn.BatchNormalization for layer in model.layers)
        outputs = model.predict(expected["inputs"], verbose=0)
        assert_close(outputs, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_release_has_golden_files():
    assert (GOLDEN / kbn.__version__).is_dir()
