"""Three steps of training agree on all backends, and each backend loads the others' files.

Other backends are not installed here. Their models and numbers are golden files, written by
`tests/golden/make_backends.py`.
"""

import keras
import numpy as np
import pytest

import kbn
from tests.support.golden import needs_keras_of_golden_files
from tests.support.on_backend import BACKEND, array
from tests.support.three_steps import BACKENDS, FILES, OPTIONS, predicted, trained, written

every_option = pytest.mark.parametrize("name", OPTIONS)
every_backend = pytest.mark.parametrize("other", BACKENDS)


@every_option
def test_three_steps_agree(name):
    _, own = trained(OPTIONS[name])
    for other in BACKENDS:
        wanted = written(other, name)
        np.testing.assert_allclose(own.losses, wanted.losses, rtol=1e-5, err_msg=other)
        assert len(own.losses) == 3
        for mine, theirs in zip(own.weights, wanted.weights, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5, err_msg=other)


@needs_keras_of_golden_files
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@every_option
@every_backend
def test_files_of_each_backend_load_and_predict_the_same(name, other):
    # Keras saves PyTorch's optimizers as classes that only PyTorch has.
    compiled = other != "torch" or BACKEND == "torch"
    model = keras.models.load_model(FILES / f"{name}-{other}.keras", compile=compiled)
    wanted = written(other, name)
    assert isinstance(model.get_layer("first"), kbn.BatchNormalization)
    for weight, expected in zip(model.weights, wanted.weights, strict=True):
        np.testing.assert_array_equal(array(weight), expected)
    np.testing.assert_allclose(predicted(model), wanted.predicted, rtol=1e-5, atol=1e-5)
    if not compiled:
        return
    # Training goes on with the state of the optimizer. Files of JAX say that the model is compiled,
    # which takes PyTorch half a minute.
    model.jit_compile = model.jit_compile and BACKEND != "torch"
    model.fit(np.ones((16, 6, 6, 2)), np.ones((16, 2)), verbose=0)
    assert int(array(model.optimizer.iterations)) == 4
