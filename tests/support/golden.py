"""What the tests of golden files share."""

import keras
import pytest

needs_keras_of_golden_files = pytest.mark.xfail(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
    raises=TypeError,
    strict=True,
    reason="Keras 3.15 wrote the files, and Keras 3.14 does not accept all arguments in them",
)
