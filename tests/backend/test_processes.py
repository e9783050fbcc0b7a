"""Statistics over several devices and processes equal those of one process over the whole batch."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import keras
import numpy as np
import pytest

import kbn
from tests.support import ROOT
from tests.support.on_backend import BACKEND, array, gradient
from tests.support.workers import free_ports

X = np.random.default_rng(0).normal(3, 2, (24, 4)).astype("float32")
X[:12] += 5  # the halves differ
PARTS = {"even": (0, 12, 24), "uneven": (0, 7, 24)}

COMMON = """
import json, os, sys
import numpy as np, keras, kbn
from tests.backend.test_processes import PARTS, X, fitted, loss_of
from tests.support.on_backend import array

def outcome(y, layer, *others):
    found = [y, layer.moving_mean, layer.moving_variance, layer.skipped_updates, *others]
    print("RESULT", json.dumps([np.asarray(array(each)).tolist() for each in found]))
"""
SHARDED = """
import jax
from jax.sharding import Mesh, PartitionSpec as P
layer = kbn.BatchNormalization(momentum=0.9, synchronized=sys.argv[1] == "True")
layer.build(X.shape)
mesh = Mesh(np.array(jax.devices()), ("batch",))
kinds = layer.trainable_variables, layer.non_trainable_variables
state = [[variable.value for variable in kind] for kind in kinds]

def step(trainable, others, x):
    return layer.stateless_call(trainable, others, x, training=True)

specs = {"in_specs": (P(), P(), P("batch")), "out_specs": (P("batch"), P()), "check_vma": False}
y, new = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(*state, X)
for variable, value in zip(layer.non_trainable_variables, new):
    variable.assign(np.asarray(value))
outcome(np.asarray(y), layer)
"""
DISTRIBUTED = """
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
model = keras.Sequential([keras.layers.Input((4,)), kbn.BatchNormalization(momentum=0.9)])
model.compile(keras.optimizers.SGD(0.0), "mse")
model.fit(X, X, batch_size=24, shuffle=False, verbose=0)
layer = model.layers[0]
path = str(layer.execution_path(X, training=True))
assert "Under keras.distribution, statistics are those of the global batch" in path, path
outcome((X - X.mean(0)) / np.sqrt(X.var(0) + 1e-3), layer)  # fit returns no outputs
"""
# Two processes of JAX, each with half of the batch: the layer's outputs, its gradient and `fit`.
PROCESSES = """
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jax.experimental.multihost_utils import host_local_array_to_global_array as joined
rank = jax.process_index()
layer = kbn.BatchNormalization(momentum=0.9, synchronized=sys.argv[1] == "True")
layer.build(X.shape)
mesh = Mesh(np.array(jax.devices()), ("batch",))
kinds = layer.trainable_variables, layer.non_trainable_variables
state = joined([[np.asarray(v.value) for v in kind] for kind in kinds], mesh, P())
half = X[12 * rank : 12 * rank + 12]
x = joined(half, mesh, P("batch"))

def loss(x):
    y, new = layer.stateless_call(*state, x, training=True)
    return loss_of(y), (y, new)

(_, (y, new)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
for variable, value in zip(layer.non_trainable_variables, new):
    variable.assign(np.asarray(value.addressable_data(0)))
y, gradient = (np.asarray(each.addressable_data(0)) for each in (y, gradient))
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
outcome(y, layer, gradient, *fitted(half))
"""
GROUP = """
import torch
from torch import distributed
distributed.init_process_group("gloo")
rank, cuts = distributed.get_rank(), PARTS[sys.argv[2]]
layer = kbn.BatchNormalization(momentum=0.9, synchronized=sys.argv[1] == "True")
x = torch.tensor(X[cuts[rank] : cuts[rank + 1]], requires_grad=True)
y = layer(x, training=True)
(gradient,) = torch.autograd.grad(loss_of(y), [x])
outcome(y, layer, gradient)
distributed.destroy_process_group()
"""


def fitted(x):
    """Return the statistics, γ and β of a layer after three steps of `fit`, as arrays."""
    model = keras.Sequential([keras.layers.Input((4,)), kbn.BatchNormalization(momentum=0.9)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.sin(x), batch_size=len(x), epochs=3, shuffle=False, verbose=0)
    return [array(variable) for variable in model.layers[0].weights]


def loss_of(y):
    """Return a loss that is a sum over samples."""
    return keras.ops.sum(keras.ops.sin(2 * y))


def run(code, *arguments, first="", **environment):
    return subprocess.Popen(
        [sys.executable, "-c", first + COMMON + code, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )  # fmt: skip


def results(*processes):
    outputs = [process.communicate(timeout=240) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [
        [np.array(each) for each in json.loads(printed.split("RESULT")[1])]
        for printed, _ in outputs
    ]


def in_group(synchronized, parts):
    port = str(free_ports(1)[0])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return results(*(run(GROUP, str(synchronized), parts, RANK=str(i), **group) for i in range(2)))


def in_two_processes_of_jax(synchronized):
    """Return the outcome of each process."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    # Before anything else uses JAX.
    first = f"import keras; keras.distribution.initialize({addresses!r}, 2, {{}})\n"
    arguments = str(synchronized)
    return results(*(run(PROCESSES, arguments, first=first.format(i)) for i in range(2)))


def on_two_devices(code, synchronized=True):
    flags = "--xla_force_host_platform_device_count=2"
    return results(run(code, str(synchronized), XLA_FLAGS=flags))[0]


def of_one_process():
    layer = kbn.BatchNormalization(momentum=0.9)
    y = layer(X, training=True)
    return [array(each) for each in (y, layer.moving_mean, layer.moving_variance)]


def assert_whole(found):
    for one, expected in zip(found, of_one_process(), strict=False):
        np.testing.assert_allclose(one, expected, rtol=1e-6, atol=1e-6)
    assert found[3].tolist() == [0] * 4


def assert_agreed(found, cuts):
    """Each part was normalized alone; the moving statistics are the means weighted by count."""
    y, mean, variance, _ = found
    parts = [X[begin:end].astype("float64") for begin, end in pairwise(cuts)]
    expected = [(part - part.mean(0)) / np.sqrt(part.var(0) + 1e-3) for part in parts]
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-5, atol=1e-5)
    counts = [len(part) for part in parts]
    means = np.average([part.mean(0) for part in parts], 0, counts)
    variances = np.average([part.var(0, ddof=1) for part in parts], 0, counts)
    np.testing.assert_allclose(mean, 0.1 * means, rtol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * variances, rtol=1e-6)


if BACKEND == "torch":

    @pytest.mark.parametrize("parts", PARTS)
    @pytest.mark.parametrize("synchronized", [True, False])
    def test_two_processes_of_torch_distributed(synchronized, parts):
        one, other = in_group(synchronized, parts)
        for mine, theirs in zip(one[1:4], other[1:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)  # the same in both processes
        together = [np.concatenate([one[0], other[0]]), *one[1:4]]
        if synchronized:
            assert_whole(together)
            # The gradient of the sum of both losses.
            layer, x = kbn.BatchNormalization(), keras.ops.convert_to_tensor(X)
            (whole,) = gradient(lambda x: loss_of(layer(x, training=True)))(x)
            parts = np.concatenate([one[4], other[4]])
            np.testing.assert_allclose(parts, array(whole), rtol=1e-4, atol=1e-5)
        else:
            assert_agreed(together[:4], PARTS[parts])


if BACKEND == "jax":

    @pytest.mark.parametrize("synchronized", [True, False])
    def test_two_devices_of_shard_map(synchronized):
        found = on_two_devices(SHARDED, synchronized)
        if synchronized:
            assert_whole(found)
        else:
            assert_agreed(found, PARTS["even"])

    def test_fit_on_two_devices_of_keras_distribution():
        assert_whole(on_two_devices(DISTRIBUTED))

    @pytest.mark.parametrize("synchronized", [True, False])
    def test_two_processes_of_jax(synchronized):
        one, other = in_two_processes_of_jax(synchronized)
        for mine, theirs in zip((*one[1:4], *one[5:]), (*other[1:4], *other[5:]), strict=True):
            np.testing.assert_array_equal(mine, theirs)  # the same in both processes
        assert_whole([np.concatenate([one[0], other[0]]), *one[1:4]])
        layer = kbn.BatchNormalization()
        (whole,) = gradient(lambda x: loss_of(layer(x, training=True)))(keras.ops.array(X))
        parts = np.concatenate([one[4], other[4]])
        np.testing.assert_allclose(parts, array(whole), rtol=1e-4, atol=1e-5)
        for found, expected in zip(one[5:], fitted(X), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
