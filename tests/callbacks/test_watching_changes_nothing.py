"""CovariateShift on every layer; test_contract.py asks all callbacks, in every mode."""

import keras
import numpy as np
import pytest

from kbn.callbacks import CovariateShift
from tests.support import models


def outcome(kind, callbacks):
    """Train, and return everything that training left behind."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(7)
    model = models.compiled(kind)
    fitted = model.fit(
        models.X, models.Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks,
        validation_data=(models.X, models.Y),
    )  # fmt: skip
    variables = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    return model, variables, fitted.history


@pytest.mark.basic("*subclassed*")
@pytest.mark.parametrize("kind", models.BUILDERS)
def test_training_ends_bit_for_bit_the_same(kind, tmp_path):
    _, variables, history = outcome(kind, [])
    shift = CovariateShift(tmp_path, models.X[:20], layers="*", every_steps=1)
    call = keras.layers.Layer.__call__
    model, watched, watched_history = outcome(kind, [shift])
    assert {row.step for row in shift.history} == set(range(17))
    assert history == watched_history
    assert len(variables) == len(watched)
    for plain, other in zip(variables, watched, strict=True):
        np.testing.assert_array_equal(plain, other)
    assert keras.layers.Layer.__call__ is call
    assert model.losses == []


@pytest.mark.thorough
def test_the_test_can_fail(tmp_path):
    class Touching(CovariateShift):
        def record(self, step):
            self.model(self.probe, training=True)  # moves statistics and seeds
            return super().record(step)

    _, variables, _ = outcome("functional", [])
    _, touched, _ = outcome("functional", [Touching(tmp_path, models.X[:20], every_steps=1)])
    assert not all(np.array_equal(a, b) for a, b in zip(variables, touched, strict=True))
