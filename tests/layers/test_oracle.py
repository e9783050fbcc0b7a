"""The layer against the float64 oracle, over everything that an input or an option can be.

KBN_EXAMPLES and KBN_SEED choose how many examples `many` draws, and from which seed both draw.
"""

import contextlib
import os

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import kbn
from kbn import backend
from tests.support.on_backend import array, call_compiled
from tests.support.oracle import BatchNormalizationOracle

EXAMPLES = int(os.environ.get("KBN_EXAMPLES", "2000"))
SEED = int(os.environ.get("KBN_SEED", "0"))
DTYPES = ("float32", "float64", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
# Half precision rounds inputs' images, gamma and beta; statistics stay in float32.
TOLERANCE = {"float32": 2e-4, "float64": 1e-9, "mixed_float16": 1e-2, "float16": 1e-2}


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 5), "rank")
    virtual = draw(st.one_of(st.none(), st.integers(1, 20)), "virtual_batch_size")
    axis = draw(st.sampled_from([*range(1 if virtual else 0, rank), -1]), "axis")
    momentum = draw(st.one_of(st.none(), st.sampled_from([0.0, 0.9, 0.99, 1.0]), st.floats(0, 1)))
    may_debias = momentum is not None and momentum < 0.999
    renorm = draw(st.booleans(), "renorm")
    return {
        "rank": rank,
        "axis": axis,
        "dtype": draw(st.sampled_from(DTYPES), "dtype"),
        "shape": draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank), "shape"),
        "options": {
            "momentum": momentum,
            "epsilon": draw(st.sampled_from([1e-3, 1e-5, 0.1]), "epsilon"),
            "center": draw(st.booleans(), "center"),
            "scale": draw(st.booleans(), "scale"),
            "unbiased_variance": draw(st.booleans(), "unbiased"),
            "zero_debias": may_debias and draw(st.booleans(), "zero_debias"),
            "virtual_batch_size": virtual,
            "fused": draw(st.sampled_from(["auto", "auto", False]), "fused"),
            "renorm": renorm,
            "renorm_clipping": draw(CLIPPINGS) if renorm else None,
            "renorm_momentum": draw(st.sampled_from([0.5, 0.99]), "renorm_momentum"),
        },
        "batches": draw(st.lists(BATCHES, min_size=1, max_size=3), "batches"),
    }


LIMITS = {"rmin": st.floats(0, 1), "rmax": st.floats(1, 3), "dmax": st.floats(0, 5)}
CLIPPINGS = st.one_of(st.none(), st.fixed_dictionaries({}, optional=LIMITS))
BATCHES = st.fixed_dictionaries(
    {
        "size": st.integers(0, 64),
        "training": st.booleans(),
        "mask": st.sampled_from([None, None, "leading", "positions", "full", "weights"]),
        "kept": st.sampled_from([0.0, 0.1, 0.7]),
        "bad": st.sampled_from([None, None, None, np.nan, np.inf]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def batch_of(case, batch):
    """Return x (poisoned where masked), the mask as a user has it, and as it broadcasts to x."""
    rng = np.random.default_rng(batch["seed"])
    shape, rank = list(case["shape"]), case["rank"]
    axis = case["axis"] % rank
    shape[0 if axis else 1] = batch["size"]
    x = rng.normal(1, 2, shape).astype("float16").astype("float32")
    if batch["bad"] is not None and x.size:
        x[tuple(rng.integers(0, size) for size in shape)] = batch["bad"]
    if batch["mask"] is None:
        return x, None, None
    positions = [size for i, size in enumerate(shape) if i != axis]
    full = batch["mask"] in ("full", "weights")
    wanted = shape if full else positions[: 1 if batch["mask"] == "leading" else None]
    wanted = [1 if i and rng.random() < 0.2 else size for i, size in enumerate(wanted)]
    mask = rng.random(wanted) < batch["kept"]
    if batch["mask"] == "weights":
        mask = (mask * rng.choice([0.25, 0.5, 1.0], wanted)).astype("float32")
    where = mask
    if not full:
        where = mask.reshape(list(mask.shape) + [1] * (rank - 1 - mask.ndim))
        where = np.expand_dims(where, axis)
    x = np.where(np.broadcast_to(where, x.shape) > 0, x, np.nan).astype("float32")
    return x, mask, where


def check(case, call=call_compiled):
    # JAX has float64 only if it is enabled.
    double = case["dtype"] == "float64"
    with backend.in_double() if double else contextlib.nullcontext():
        compare(case, call)


def compare(case, call):
    options, channels = case["options"], case["shape"][case["axis"]]
    parameters = {
        "gamma": np.linspace(0.5, 2, channels) if options["scale"] else 1.0,
        "beta": np.linspace(-1, 1, channels) if options["center"] else 0.0,
    }
    layer = kbn.BatchNormalization(axis=case["axis"], dtype=case["dtype"], **options)
    shape = list(case["shape"])
    shape[0 if case["axis"] else 1] = None
    layer.build(tuple(shape))
    for name, given_value in parameters.items():
        if getattr(layer, name) is not None:
            getattr(layer, name).assign(given_value)
            parameters[name] = array(getattr(layer, name)).astype("float64")
    oracle = BatchNormalizationOracle(
        channels, case["axis"], options["momentum"], options["epsilon"],
        unbiased=options["unbiased_variance"], zero_debias=options["zero_debias"],
        virtual=options["virtual_batch_size"], renorm_momentum=options["renorm_momentum"],
        renorm=(options["renorm_clipping"] or {}) if options["renorm"] else None, **parameters,
    )  # fmt: skip
    tolerance = TOLERANCE.get(case["dtype"], 5e-2)
    for batch in case["batches"]:
        x, mask, where = batch_of(case, batch)
        if "float16" in case["dtype"]:  # float16 and bfloat16 inputs are what the layer sees
            x = array(keras.ops.cast(x, layer.compute_dtype)).astype("float32")
        y = array(call(layer, x, training=batch["training"], mask=mask)).astype("float64")
        expected = oracle(x, batch["training"], where)
        finite = np.isfinite(expected)
        np.testing.assert_allclose(y[finite], expected[finite], tolerance, tolerance)
    compare_state(layer, oracle)


def compare_state(layer, oracle):
    state = {"moving_mean": oracle.mean, "moving_variance": oracle.variance}
    if layer.momentum is None:
        state |= {
            "mean_count": oracle.state["mean"][0],
            "variance_count": oracle.state["spread"][0],
        }
    if layer.zero_debias:
        state["mean_debias"] = 1 - layer.momentum ** oracle.state["mean"][0]
        state["variance_debias"] = 1 - layer.momentum ** oracle.state["spread"][0]
    tolerance = 1e-9 if layer.dtype == "float64" else 1e-4
    if layer.renorm:
        state["renorm_mean"], state["renorm_stddev"] = oracle.renorm_mean, oracle.renorm_stddev
        state["moving_stddev"] = oracle.stddev
    for name, expected in state.items():
        found = array(getattr(layer, name))
        np.testing.assert_allclose(found, expected, tolerance, tolerance, err_msg=name)
    np.testing.assert_array_equal(layer.skipped_updates, oracle.refused)


def call_eagerly(layer, x, **arguments):
    return layer(x, **arguments)


CALLS = {"few": (100, call_eagerly), "many": (EXAMPLES, call_compiled)}


@pytest.mark.parametrize(("examples", "call"), CALLS.values(), ids=CALLS)
@pytest.mark.basic("few")
def test_agrees_with_the_oracle_on_random_cases(examples, call, summary):
    seen = 0

    @seed(SEED)
    @settings(
        max_examples=examples, database=None, suppress_health_check=list(HealthCheck), deadline=None
    )
    @given(cases())
    def run(case):
        nonlocal seen
        seen += 1
        check(case, call)

    run()
    summary(
        f"{seen} hypothesis examples agree with the float64 oracle ({examples} asked for, "
        f"KBN_SEED={SEED})"
    )
    assert seen >= examples
