"""A compiled run of a model on a fixed batch that extracts tensors from the calls of its layers.

Layer calls are observed only while the function is traced. So any model can be watched (nested,
subclassed, with shared layers), and nothing stays attached to it.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import keras
import numpy as np
from keras import tree

from kbn import backend
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import (
    LayerCall,
    observe_calls,
    runs_eagerly,
    seeds,
    training_argument,
)
from kbn.introspection.layer_tree import Layers, LayerSelection, layer_paths, report_unwatched
from kbn.records.reasons import telling_line
from kbn.records.tags import Place

Result = TypeVar("Result")
Finish: TypeAlias = Callable[[Sequence[Mapping[str, np.ndarray]]], Sequence[Result]]
"""A function of the tensors of several places, as NumPy arrays by name; one result per place."""


class Extraction(NamedTuple, Generic[Result]):
    """What is kept of one place.

    Attributes:
        tensors: tensors of bounded size, by name; they are copied from the device.
        finish: a function of the tensors of all places that share it.
    """

    tensors: dict[str, Tensor]
    finish: Finish[Result]


Extract: TypeAlias = Callable[
    [backend.Mapping, str, LayerCall], list[tuple[str, Extraction[Result]]]
]
"""A function of the mapping for scopes, a layer's path and one call of the layer.

It returns (site, extraction) pairs. An empty list skips the call."""


class RefusalError(ValueError):
    """The model cannot provide what was requested. The message needs no further context."""


class Probe(Generic[Result]):
    """A compiled run of `model` on a fixed batch, as in training, with extractions of `layers`.

    The model runs as in `fit` (`training=True`: it normalizes with batch statistics, and dropout
    is on) in a `keras.StatelessScope`, so its assignments are dropped. Dropout masks are the same
    in every record, so only a change of the weights changes the activations.

    A model that runs eagerly runs eagerly here too. Python may then call a layer more or less often
    in another record. A record contains only the places that were called in it. The i-th call of a
    layer has the same name in every record.

    Attributes:
        layers: the layers, by path.
        places: the watched places, in the order in which the model calls them. If the model runs
            eagerly, those of the last run.
        unseen: paths of layers that cannot be watched: the model does not call them in training,
            or calls them inside a loop, and tensors cannot leave a loop.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Nested,
        layers: Layers,
        extract: Extract[Result],
        *,
        eagerly: bool = False,
    ) -> None:
        """Trace the model.

        Args:
            model: the model, or the part of a model to run.
            inputs: the batch, as NumPy arrays.
            layers: the layers to watch, by path.
            extract: returns what to keep of a call.
            eagerly: whether `fit` runs eagerly, although `model` alone would not.

        Raises:
            ValueError: if the model does not accept the inputs.
        """
        self.places: list[Place] = []
        self.unseen: list[str] = []
        self._model, self.layers, self._extract, self._extracting = model, layers, extract, False
        self._several: dict[str, bool] = {}  # by path, whether calls have a number
        self._run = compile_beside(model, self._extracted, inputs, eagerly=eagerly)

    def __call__(self) -> dict[Place, Result]:
        """Run the model on the batch and return the result of each place."""
        kept = self._run()  # first, because an eager run may change `places`
        groups: dict[Finish[Result], list[int]] = {}
        for number, finish in enumerate(self._finish):
            groups.setdefault(finish, []).append(number)
        found: dict[int, Result] = {}
        for finish, numbers in groups.items():
            found.update(zip(numbers, finish([kept[i] for i in numbers]), strict=True))
        return {place: found[number] for number, place in enumerate(self.places)}

    def report_unseen(self, layers: LayerSelection) -> None:
        """Warn about layers that cannot be watched; raise if one was named, or none is left.

        Args:
            layers: the user's argument.
        """
        problem = (
            "These layers cannot be watched, because the model does not call them in training "
            "or calls them inside a loop"
        )
        if not self.places:
            names = ", ".join(self.unseen)
            raise ValueError(
                f"{problem}: {names}. Name others in layers. Received: layers={layers!r}"
            )
        if self.unseen:
            report_unwatched(problem, layers, self.unseen, layer_paths(self._model))

    def _extracted(self, mapping: backend.Mapping, inputs: Nested) -> list[dict[str, Tensor]]:
        paths = {id(layer): path for path, layer in self.layers.items()}
        trace, calls, looped = backend.current_trace(), Counter[str](), set()
        seen: list[tuple[tuple[str, int, str], Extraction[Result]]] = []

        def observe(call: LayerCall) -> None:
            path = paths.get(id(call.layer))
            if path is None or self._extracting:
                return
            if call.trace is not trace:
                looped.add(path)
                return
            number, calls[path] = calls[path], calls[path] + 1
            self._extracting = True  # an extraction may call the layer
            try:
                found = self._extract(mapping, path, call)
                seen.extend(((path, number, site), kept) for site, kept in found)
            finally:
                self._extracting = False

        scope = keras.StatelessScope(state_mapping=[*mapping, *seeds(self._model)])
        with observe_calls(observe), scope, backend.undisturbed():
            self._model(inputs, **training_argument(self._model, True))
        # A layer inside a loop may also be called once outside it. Drop this call: it does not
        # represent all calls.
        seen = [(key, kept) for key, kept in seen if key[0] not in looped]
        self._several = {path: calls[path] > 1 for path in calls} | self._several
        self.places = [self._place(*key) for key, _ in seen]
        self._finish = [kept.finish for _, kept in seen]
        self.unseen = [path for path in self.layers if path not in {key[0] for key, _ in seen}]
        return [kept.tensors for _, kept in seen]

    def _place(self, path: str, call: int, site: str) -> Place:
        return Place(f"{path}:{call}" if call or self._several[path] else path, site)


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
        return backend.compile_for(function, model.variables, inputs, *varying, eagerly=eagerly)


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
    dtype = "strings" if array.dtype.kind in "OSU" else array.dtype.name
    return f"{tuple(array.shape)} of {dtype}"
