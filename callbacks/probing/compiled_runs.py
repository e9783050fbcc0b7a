"""Runs of a model that are compiled beside training."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import tree

from kbn import backend
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import runs_eagerly, seeds, training_argument
from kbn.introspection.layer_tree import layer_paths
from kbn.records.reasons import telling_line

STRINGS = "OSU"
"""The kinds of NumPy's dtypes that hold strings."""


class RefusalError(ValueError):
    """The model cannot provide what was requested. The message needs no further context."""


def build(model: keras.Model, inputs: Nested, *, eagerly: bool = False) -> None:
    """Build the model, if its first call has not done so yet.

    Args:
        model: the model, or the part of a model to run.
        inputs: a batch, as NumPy arrays.
        eagerly: whether `fit` runs eagerly, although `model` alone would not.

    Raises:
        ValueError: if the model does not accept the inputs.
    """
    if all(layer.built for layer in (model, *layer_paths(model).values())):
        return

    def call(mapping: backend.Mapping, x: Nested) -> list[Tensor]:
        with keras.StatelessScope(state_mapping=[*mapping, *seeds(model)]):
            model(x, **training_argument(model, True))
        return []

    compile_beside(model, call, inputs, eagerly=eagerly)


def compile_beside(
    model: keras.Model,
    function: Callable[..., Nested],
    inputs: Nested,
    *varying: Nested,
    eagerly: bool = False,
) -> backend.Compiled:
    """Compile a run of `model` outside of training; arguments as for `kbn.backend.compile_for`.

    Raises:
        ValueError: if the model does not accept the inputs. The message has their shapes.
    """
    eagerly = eagerly or runs_eagerly(model)
    with _shapes_in_errors(inputs):
        run = backend.compile_for(function, model.variables, inputs, *varying, eagerly=eagerly)
        if _has_strings(inputs):
            run(*varying)  # a cast of strings to numbers fails only here
    return run


@contextlib.contextmanager
def _shapes_in_errors(inputs: Nested) -> Iterator[None]:
    """Raise errors of the model as ValueError, with the shapes of `inputs`."""
    try:
        yield
    except (RefusalError, backend.MissingCapabilityError):
        raise
    except Exception as error:
        shapes = tree.map_structure(_described, inputs)
        raise ValueError(
            f"The model cannot be run on probe_data: {telling_line(error)} Received: probe_data of "
            f"shape {shapes} (including the samples axis)"
        ) from error


def _described(array: np.ndarray) -> str:
    dtype = "strings" if array.dtype.kind in STRINGS else array.dtype.name
    return f"{tuple(array.shape)} of {dtype}"


def _has_strings(inputs: Nested) -> bool:
    return any(array.dtype.kind in STRINGS for array in tree.flatten(inputs) if array is not None)
