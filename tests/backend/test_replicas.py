"""Statistics over replicas: two logical CPUs, and two worker processes on loopback."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn import backend
from tests.support.replicas import forward_and_gradients, mirrored, run_on, statistics
from tests.support.workers import run_workers

OPTIONS = [
    {},
    {"momentum": None},
    {"unbiased_variance": False, "axis": 1},
    {"zero_debias": True},
    {"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}},
]
options_case = pytest.mark.parametrize("options", OPTIONS, ids=str)
# (samples of replica 0, of replica 1)
SPLITS = pytest.mark.parametrize("split", [(4, 4), (7, 1), (8, 0), (0, 8), (0, 0)], ids=str)


@pytest.fixture
def strategy():
    return mirrored()


def data(shape=(8, 3, 3), mean=5.0, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) + mean).astype("float32")
    return x, rng.normal(size=shape).astype("float32"), rng.random(shape[:2]) < 0.6


def cut(array, split):
    return None if array is None else (array[: split[0]], array[split[0] : sum(split)])


def built(strategy=None, shape=(None, 3, 3), **options):
    if strategy is None:
        layer = kbn.BatchNormalization(**options)
        layer.build(shape)
        return layer
    with strategy.scope():
        return built(None, shape, **options)


@pytest.mark.basic("True-{}-(7, 1)", "True-*rmax*-(7, 1)")
@SPLITS
@options_case
@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_replicas_equal_one_device(strategy, split, options, masked):
    x, factors, mask = data()
    x, factors, mask = (array[: sum(split)] for array in (x, factors, mask))
    mask = mask if masked else None
    one, both = built(**options), built(strategy, synchronized=True, **options)
    for _ in range(2):
        expected = [np.asarray(t) for t in forward_and_gradients(one, x, mask, factors)]
        parts = [cut(array, split) for array in (x, mask, factors)]
        y, dx, dgamma, dbeta = run_on(
            strategy, lambda x, mask, factors: forward_and_gradients(both, x, mask, factors), *parts
        )
        received = [np.concatenate(y), np.concatenate(dx), sum(dgamma), sum(dbeta)]
        for value, wanted in zip(received, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
    for value, wanted in zip(statistics(both), statistics(one), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(both.skipped_updates, one.skipped_updates)


def test_synchronized_weights_equal_one_device(strategy):
    x, _, _ = data()
    weights = np.random.default_rng(1).choice([0, 0.25, 1], (8, 3)).astype("float32")
    one, both = built(), built(strategy, synchronized=True)
    y = one(x, training=True, mask=weights)
    (received,) = run_on(
        strategy,
        lambda x, w: [both(x, training=True, mask=w)],
        cut(x, (5, 3)),
        cut(weights, (5, 3)),
    )
    np.testing.assert_allclose(np.concatenate(received), y, atol=1e-5)
    np.testing.assert_allclose(both.moving_variance, one.moving_variance, rtol=1e-5)


@pytest.mark.parametrize("split", [(32, 32), (63, 1)], ids=str)
def test_synchronized_variance_survives_a_large_mean(strategy, split, summary):
    x = np.random.default_rng(0).normal(1e4, 1, (64, 4)).astype("float32")
    layer = built(strategy, (None, 4), synchronized=True, momentum=0.0, unbiased_variance=False)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, split))
    error = np.abs(layer.moving_variance.numpy() / x.astype("float64").var(0) - 1).max()
    summary(f"synchronized variance at mean 1e4, std 1, {split}: relative error {error:.1e}")
    assert error <= 1e-5


@options_case
def test_unsynchronized_statistics_are_the_mean_over_replicas(strategy, options):
    x, _, _ = data()
    x[4:] += 10
    both = built(strategy, **options)
    run_on(strategy, lambda x: [both(x, training=True)], cut(x, (4, 4)))
    apart = [built(**options), built(**options)]
    for layer, part in zip(apart, cut(x, (4, 4)), strict=True):
        layer(part, training=True)
    for both_value, *values in zip(statistics(both), *map(statistics, apart), strict=True):
        counts = options.get("momentum", 0) is None and both_value.min() >= 24
        wanted = sum(values) if counts else np.mean(values, axis=0)
        np.testing.assert_allclose(both_value, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, None])
def test_unsynchronized_replicas_weigh_by_their_count(strategy, momentum):
    x, _, _ = data()
    x[7:] += 10
    layer = built(strategy, momentum=momentum, axis=1)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (7, 1)))
    start, share = (0.0, 1.0) if momentum is None else (1.0, 0.1)
    np.testing.assert_allclose(layer.moving_mean, x.mean((0, 2)) * share, rtol=1e-5)
    variance = (x[:7].var((0, 2), ddof=1) * 7 + x[7:].var((0, 2), ddof=1)) / 8
    wanted = start * (1 - share) + variance * share
    np.testing.assert_allclose(layer.moving_variance, wanted, rtol=1e-5)


def test_replicas_without_values_do_not_affect_the_others(strategy):
    # 7 + 1 samples, one value per channel each: replica 1 has no variance; then none at all
    x = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    layer = built(strategy, (None, 4), momentum=0.5)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (7, 1)))
    np.testing.assert_allclose(layer.moving_variance, 0.5 + 0.5 * x[:7].var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.5 * x.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(layer.skipped_updates, [1] * 4)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x[:0], (0, 0)))
    np.testing.assert_allclose(layer.moving_mean, 0.5 * x.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(layer.skipped_updates, [3] * 4)


@pytest.mark.parametrize("momentum", [None, 0.0])
def test_sums_over_replicas_do_not_overflow(strategy, momentum):
    layer = built(strategy, (None, 1), momentum=momentum)
    x = np.full((4, 1), 3e38, "float32")
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (1, 1)))
    np.testing.assert_allclose(layer.moving_mean, [3e38], rtol=1e-6)


def test_an_option_changed_after_build_applies_on_all_replicas(strategy):
    layer = built(strategy, synchronized=True)
    layer.synchronized = False
    x, _, _ = data()
    x[4:] += 10
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (4, 4)))
    for variable in layer.non_trainable_variables:
        np.testing.assert_array_equal(*(v.numpy() for v in variable.value.values))


@pytest.mark.parametrize("synchronized", [False, True])
def test_nan_on_one_replica_changes_no_statistics(strategy, synchronized):
    x, _, _ = data()
    x[0, 0, 1] = np.nan
    layer = built(strategy, synchronized=synchronized, momentum=0.5)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (4, 4)))
    assert np.isfinite(statistics(layer)).all()
    assert (layer.moving_mean.numpy() != 0).tolist() == [True, not synchronized, True]


def test_gathered_rows_are_those_of_each_replica_even_beside_nan(strategy):
    rows = np.float32([[[1, 2]], [[np.nan, np.inf]]])
    (gathered,) = run_on(strategy, lambda rows: [backend.gather(rows)], rows)
    for received in gathered:
        np.testing.assert_array_equal(received, rows)


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("renorm", [False, True])
def test_one_collective_per_layer_and_forward_pass(strategy, monkeypatch, synchronized, renorm):
    calls, original = [], backend.gather
    monkeypatch.setattr(backend, "gather", lambda rows: calls.append(rows.shape) or original(rows))
    layer = built(strategy, synchronized=synchronized, renorm=renorm)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(data()[0], (4, 4)))
    assert len(calls) == 2  # one in each of two replicas
    parts = strategy.experimental_distribute_values_from_function(lambda _: tf.zeros((4, 3, 3)))
    step = tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), args=(x,)))
    operations = step.get_concrete_function(parts).graph.get_operations()
    assert sum("CollectiveReduce" in operation.type for operation in operations) == 2


def test_every_replica_has_the_same_statistics_and_predictions(strategy):
    x, _, _ = data()
    x[4:] += 10
    layer = built(strategy)
    run_on(strategy, lambda x: [layer(x, training=True)], cut(x, (4, 4)))
    same = x[:4]
    (outputs,) = run_on(strategy, lambda x: [layer(x)], (same, same))
    np.testing.assert_array_equal(*outputs)
    for variable in layer.non_trainable_variables:
        np.testing.assert_array_equal(*(v.numpy() for v in variable.value.values))


def model_for(layer):
    return keras.Sequential([keras.layers.Input((4,)), layer, keras.layers.Dense(1, name="head")])


@pytest.mark.basic("*synchronized*")
@pytest.mark.parametrize("options", [{"synchronized": True}, {}], ids=str)
def test_fit_and_predict_under_mirrored_strategy(strategy, options, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (30, 4)).astype("float32")  # batches of 8 and a last one of 6
    y = x[:, :1]
    with strategy.scope():
        both = model_for(kbn.BatchNormalization(momentum=0.9, **options))
        both.compile("sgd", "mse")
    one = model_for(kbn.BatchNormalization(momentum=0.9))
    one.compile("sgd", "mse")
    one.set_weights(both.get_weights())
    for model in (one, both):
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    if options:
        for value, wanted in zip(both.get_weights(), one.get_weights(), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
    both.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for batch_size in (30, 8):
        np.testing.assert_allclose(
            both.predict(x, batch_size=batch_size, verbose=0), loaded.predict(x, verbose=0),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


WORKER = """
    import json, os, sys
    import numpy as np, tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras, kbn
    from tests.support.replicas import forward_and_gradients, run_on, statistics
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    results = {}
    for name in ("True", "False"):
        with strategy.scope():
            layer = kbn.BatchNormalization(synchronized=name == "True")
            layer.build((None, 3, 3))
        for split in ((4, 4), (7, 1), (8, 0)):
            data = np.load(sys.argv[1])
            part = slice(0, split[0]) if rank == 0 else slice(split[0], 8)
            x, mask, factors = (tf.constant(data[key][part]) for key in ("x", "mask", "factors"))
            step = tf.function(
                lambda *a: strategy.run(lambda *a: forward_and_gradients(layer, *a), args=a)
            )
            outputs = step(x, mask, factors)
            results[f"{name} {split}"] = [np.asarray(t).tolist() for t in outputs]
        results[name] = [s.tolist() for s in statistics(layer)]
    with strategy.scope():
        layers = [keras.layers.Input((3, 3)), *(kbn.BatchNormalization() for _ in range(2))]
        model = keras.Sequential(layers)
    kbn.recalibrate(model, np.load(sys.argv[1])["x"], verbose=False)
    results["recalibrated"] = [s.tolist() for s in statistics(model.layers[0])]
    print("RESULT" + json.dumps(results))
"""


@pytest.mark.thorough
def test_two_worker_processes_agree_with_one(tmp_path):
    x, factors, mask = data()
    np.savez(tmp_path / "data.npz", x=x, factors=factors, mask=mask)
    results = run_workers(WORKER, tmp_path / "data.npz")
    one = built()
    for split in ((4, 4), (7, 1), (8, 0)):
        expected = [np.asarray(t) for t in forward_and_gradients(one, x, mask, factors)]
        y, dx, dgamma, dbeta = zip(*(r[f"True {split}"] for r in results), strict=True)
        joined = [np.concatenate([np.reshape(p, (-1, 3, 3)) for p in parts]) for parts in (y, dx)]
        received = [*joined, np.sum(dgamma, 0), np.sum(dbeta, 0)]
        for value, wanted in zip(received, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
    for result in results:
        np.testing.assert_allclose(result["True"], statistics(one), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(result["False"], results[0]["False"])
        wanted = x.mean((0, 1)), x.var((0, 1)) * 24 / 23
        np.testing.assert_allclose(result["recalibrated"], wanted, rtol=1e-5)
    assert np.abs(np.array(results[0]["False"]) - results[0]["True"]).max() > 1e-4


def test_a_layer_on_one_replica_needs_no_collective(monkeypatch):
    monkeypatch.setattr(backend, "gather", None)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        layer = built(synchronized=True)
    layer(data()[0], training=True)
