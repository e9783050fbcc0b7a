"""What Keras documents of its layer holds for kbn's, with `unbiased_variance=False`.

Every check runs against both classes: what it asserts is what Keras's documentation says, and
where numbers come out, both must come out the same.
"""

import json

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kbn
from tests.support.ids import plain

CLASSES = {
    "kbn": lambda **options: kbn.BatchNormalization(unbiased_variance=False, **options),
    "keras": layers.BatchNormalization,
}
each_class = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
X = np.random.default_rng(0).normal(2, 3, (16, 5, 4)).astype("float32")


def after_training(layer, x=X, steps=3, **arguments):
    """Everything that shows of a layer: outputs in training and inference, losses, weights."""
    rng = np.random.default_rng(1)
    outputs = []
    for _ in range(steps):
        outputs.append(
            layer(x + rng.normal(size=x.shape).astype(x.dtype), training=True, **arguments)
        )
    outputs.append(layer(x, training=False))
    return [keras.ops.convert_to_numpy(y) for y in [*outputs, *layer.losses]] + layer.get_weights()


ARGUMENTS = [
    {},
    {"axis": 1},
    {"axis": -2},
    {"axis": 0},
    {"momentum": 0.0},
    {"momentum": 0.5},
    {"momentum": 1.0},
    {"epsilon": 1e-5},
    {"epsilon": 1.0},
    {"center": False},
    {"scale": False},
    {"center": False, "scale": False},
    {"beta_initializer": "ones"},
    {"gamma_initializer": keras.initializers.RandomNormal(seed=1)},
    {"moving_mean_initializer": keras.initializers.Constant(3.0)},
    {"moving_variance_initializer": keras.initializers.Constant(4.0)},
    {"beta_regularizer": "l1", "beta_initializer": "ones"},
    {"gamma_regularizer": keras.regularizers.L2(0.1)},
    {"renorm": True},
    {"renorm": True, "renorm_momentum": 0.5},
    {"renorm": True, "renorm_clipping": {"rmax": 1.5, "rmin": 0.9, "dmax": 0.5}},
    {"renorm": True, "renorm_clipping": {"dmax": 0.0}, "center": False},
    {"renorm": True, "momentum": 0.5, "scale": False},
    {"synchronized": True},
    {"dtype": "float64"},
    {"dtype": "mixed_bfloat16"},
    {"trainable": False},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=plain)
def test_every_argument_gives_the_same_numbers(arguments):
    ours, theirs = (make(**arguments) for make in CLASSES.values())
    tolerance = 2e-2 if "bfloat16" in arguments.get("dtype", "") else 1e-4
    for mine, other in zip(after_training(ours), after_training(theirs), strict=True):
        np.testing.assert_allclose(
            np.asarray(mine, "float64"), np.asarray(other, "float64"), tolerance, tolerance
        )


@pytest.mark.basic("*-True")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=plain)
def test_every_argument_gives_the_same_gradients(arguments, training):
    gradients = []
    for make in CLASSES.values():
        layer = make(**arguments)
        after_training(layer)
        x = tf.cast(X, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(tf.cast(layer(x, training=training), "float32")))
        sources = [x, *(v.value for v in layer.trainable_variables)]
        gradients.append([tf.cast(g, "float64") for g in tape.gradient(loss, sources)])
    tolerance = 5e-2 if "bfloat16" in arguments.get("dtype", "") else 1e-4
    for mine, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(mine, other, tolerance, tolerance)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=plain)
def test_weights_have_the_same_names_order_and_flags(arguments):
    described = []
    for make in CLASSES.values():
        layer = make(**arguments)
        layer.build(X.shape)
        described.append([(w.name, tuple(w.shape), w.trainable) for w in layer.weights])
    assert described[0] == described[1]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=plain)
def test_configs_are_the_same_except_for_kbns_options(arguments):
    ours, theirs = (make(name="bn", **arguments).get_config() for make in CLASSES.values())
    added = {"unbiased_variance", "zero_debias", "virtual_batch_size", "fused"}
    assert set(ours) - set(theirs) == added
    assert {k: v for k, v in ours.items() if k not in added} == theirs
    assert kbn.BatchNormalization.from_config(theirs).get_config() == {
        **ours, "unbiased_variance": True
    }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [{"momentum": 0.0}, {"epsilon": 0.5}, {"renorm_momentum": 0.1}, {"synchronized": True}],
    ids=plain,
)
@pytest.mark.parametrize("renorm", [False, True])
def test_options_may_change_after_build(changed, renorm):
    results = []
    for make in CLASSES.values():
        layer = make(renorm=renorm)
        layer.build(X.shape)
        for name, value in changed.items():
            setattr(layer, name, value)
        results.append(after_training(layer))
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, 1e-4, 1e-4)


@each_class
def test_constraints_hold_after_a_step(make):
    layer = make(gamma_constraint="non_neg", beta_constraint=keras.constraints.MaxNorm(0.1))
    model = keras.Sequential([layers.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(10.0), "mse")
    model.fit(X[:, 0], -100 * X[:, 0], verbose=0)
    assert (layer.gamma.numpy() >= 0).all()
    assert np.linalg.norm(layer.beta.numpy()) <= 0.1 + 1e-5


@each_class
def test_training_defaults_to_inference_and_is_inherited(make):
    layer = make(momentum=0.0)
    layer(X)
    assert (layer.moving_mean.numpy() == 0).all()
    model = keras.Sequential([layers.Input((5, 4)), layer])
    model(X, training=True)
    np.testing.assert_allclose(layer.moving_mean, X.mean((0, 1)), rtol=1e-5)


@each_class
def test_frozen_means_inference_mode(make):
    layer = make()
    layer(X, training=True)
    layer.trainable = False
    before = layer.get_weights()
    np.testing.assert_array_equal(layer(X, training=True), layer(X, training=False))
    for value, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 4
    outer = keras.Sequential([layers.Input((5, 4)), make()])
    outer.trainable = False
    assert outer.layers[0].trainable is False


@each_class
@pytest.mark.parametrize("recompile", [False, True])
def test_freezing_after_fit_takes_effect_with_compile(make, recompile):
    """As Keras documents: a compiled model keeps what it was compiled with."""
    layer = make()
    model = keras.Sequential([layers.Input((5, 4)), layer, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    y = np.zeros((16, 1))
    model.fit(X, y, verbose=0)
    layer.trainable = False
    if recompile:
        model.compile("sgd", "mse")
    before = layer.get_weights()
    model.fit(X, y, verbose=0)
    moved = [(a != b).any() for a, b in zip(layer.get_weights(), before, strict=True)]
    assert moved == [not recompile] * 4
    # Called directly, the layer obeys at once.
    before = layer.get_weights()
    layer(X, training=True)
    np.testing.assert_array_equal(before, layer.get_weights())


@each_class
def test_training_false_in_a_functional_model_is_overridden_by_fit(make):
    """Keras 3.15 does so; the docstring says to freeze instead. Red means that Keras changed."""
    base = keras.Sequential([layers.Input((5, 4)), make()])
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.Dense(4)(base(inputs, training=False)))
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    assert (base.layers[0].moving_mean.numpy() != 0).all()
    base.trainable = False
    model.compile("sgd", "mse")
    before = base.get_weights()
    model.fit(X, X, verbose=0)
    np.testing.assert_array_equal(base.get_weights(), before)


@each_class
def test_a_mask_of_positions_is_left_out_and_passed_on(make):
    mask = np.ones((16, 5), bool)
    mask[:, 3:] = False
    layer = make(momentum=0.0)
    layer(X, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, X[:, :3].mean((0, 1)), rtol=1e-5)
    assert layer.supports_masking
    np.testing.assert_array_equal(layer.compute_mask(X, mask), mask)


@each_class
def test_shapes_and_symbolic_calls(make):
    layer = make(axis=1)
    assert layer.compute_output_shape((None, 3, 7)) == (None, 3, 7)
    y = layer(keras.Input((3, 7)))
    assert (y.shape, y.dtype) == ((None, 3, 7), "float32")
    with pytest.raises(ValueError, match="expected axis 1"):
        layer(np.zeros((2, 4, 7)))
    with pytest.raises(ValueError, match="expected ndim=3"):
        layer(np.zeros((2, 3)))


@each_class
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integer_inputs(make, dtype, rng):
    x = rng.integers(0, 9, (8, 4)).astype(dtype)
    y = make()(x, training=True)
    assert y.dtype == "float32"
    exact = x.astype("float64")
    wanted = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-3)
    np.testing.assert_allclose(y, wanted, atol=1e-5)


@each_class
@pytest.mark.parametrize("training", [True, False])
def test_second_order_gradients(make, training):
    x = tf.constant(X[:, 0].astype("float64"))
    layer = make(dtype="float64")
    layer.build((None, 4))
    factors = tf.constant(np.random.default_rng(2).normal(size=x.shape))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, training=training)) * factors)
        return tape.gradient(loss, x)

    with tf.GradientTape() as tape:
        tape.watch(x)
        first = gradient(x)
        penalty = tf.reduce_sum(tf.square(first))
    second = tape.gradient(penalty, x).numpy()
    step, direction = 1e-5, np.random.default_rng(3).normal(size=x.shape)
    above, below = (
        float(tf.reduce_sum(tf.square(gradient(x + sign * step * direction)))) for sign in (1, -1)
    )
    assert np.sum(second * direction) == pytest.approx((above - below) / (2 * step), rel=1e-4)


def small_model(make):
    model = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3), make(), layers.ReLU()])
    images = np.random.default_rng(0).normal(1, 2, (32, 8, 8, 3)).astype("float32")
    for _ in range(3):
        model(images, training=True)
    return model, images


@each_class
def test_exports_to_saved_model(make, tmp_path):
    model, images = small_model(make)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(images), model(images), atol=1e-5)


@each_class
def test_a_training_function_exports_to_saved_model(make, tmp_path):
    class Trained(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = keras.Sequential([layers.Input((3,)), make(momentum=0.0), layers.Dense(1)])

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def train(self, x):
            return self.model(x, training=True), self.model.layers[0].moving_mean.value

    module, x = Trained(), X[:, 0, :3]
    tf.saved_model.save(module, str(tmp_path / "trained"))
    loaded = tf.saved_model.load(str(tmp_path / "trained"))
    _, mean = loaded.train(tf.constant(x))
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)


@each_class
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_exports_to_tflite(make):
    model, images = small_model(make)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.resize_tensor_input(0, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(outputs, model(images), atol=1e-4)


@each_class
def test_keras_file_weights_file_and_clone(make, tmp_path):
    model, images = small_model(make)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    model.save_weights(tmp_path / "m.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(clone(images), model(images))


def test_old_h5_files_with_axis_lists_can_be_loaded(tmp_path):
    """Keras 2 wrote `axis: [3]`; kbn's layer reads the file of Keras's, list and all."""
    model, images = small_model(layers.BatchNormalization)
    path = tmp_path / "old.h5"
    model.save(path)  # Keras logs that the format is old
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (entry,) = [
            x for x in config["config"]["layers"] if x["class_name"] == "BatchNormalization"
        ]
        entry["config"]["axis"] = [3]
        file.attrs["model_config"] = json.dumps(config)
    loaded = keras.models.load_model(
        path, custom_objects={"BatchNormalization": kbn.BatchNormalization}, compile=False
    )
    assert type(loaded.layers[1]) is kbn.BatchNormalization
    assert loaded.layers[1].axis == 3
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-5)


def test_is_an_instance_of_keras_layer():
    assert isinstance(kbn.BatchNormalization(), layers.BatchNormalization)
    assert kbn.BatchNormalization.__name__ == "BatchNormalization"
