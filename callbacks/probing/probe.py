"""A compiled run of a model on a fixed batch that extracts tensors from the calls of its layers.

Layer calls are observed only while the function is traced. So any model can be watched (nested,
subclassed, with shared layers), and nothing stays attached to it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.compiled_runs import compile_beside, shapes_in_errors
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import LayerCall, observe_calls, seeds, training_argument
from kbn.introspection.layer_tree import Layers, LayerSelection, layer_paths, report_unwatched
from kbn.records.tags import Place

Result = TypeVar("Result")
Finish: TypeAlias = Callable[[Sequence[Mapping[str, np.ndarray]]], Sequence[Result]]
"""A function of the tensors of several places, as NumPy arrays by name; one result per place."""


Key: TypeAlias = tuple[str, int, str]
"""The path of a layer, the number of its call and the site."""


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


class Beside(Protocol):
    """What a probe computes beside the layers, from the same run of the model.

    Attributes:
        arrays: the batch, as NumPy arrays by name; "x" is the model's input.
    """

    arrays: dict[str, Nested]

    def __call__(
        self, mapping: backend.Mapping, arrays: dict[str, Nested], outputs: Nested
    ) -> list[Tensor]:
        """Return tensors, inside the scope of the run: arrays are those of the batch."""
        ...


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
        beside: the last values of `beside`; empty if there is none, or after it has failed.
        failure: the error of `beside`, after which the probe goes on without it.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Nested,
        layers: Layers,
        extract: Extract[Result],
        *,
        beside: Beside | None = None,
        eagerly: bool = False,
    ) -> None:
        """Trace the model.

        Args:
            model: the model, or the part of a model to run.
            inputs: the batch, as NumPy arrays.
            layers: the layers to watch, by path.
            extract: returns what to keep of a call.
            beside: what else to compute.
            eagerly: whether `fit` runs eagerly, although `model` alone would not.

        Raises:
            ValueError: if the model does not accept the inputs.
        """
        self.places: list[Place] = []
        self.unseen: list[str] = []
        self._model, self.layers, self._extract = model, layers, extract
        self._several: dict[str, bool] = {}  # by path, whether calls have a number
        self.beside: list[float] = []
        self.failure: Exception | None = None
        self._inputs, self._beside, self._eagerly = inputs, beside, eagerly
        self._run = self._compiled()

    def __call__(self) -> dict[Place, Result]:
        """Run the model on the batch and return the result of each place."""
        kept, beside = self._ran()  # first, because an eager run may change `places`
        self.beside = [float(value) for value in beside]
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

    def _compiled(self) -> backend.Compiled:
        function: Callable[..., Nested] = partial(self._extracted, arrays={})
        given = self._inputs
        if self._beside is not None:
            function, given = self._extracted_beside, self._beside.arrays
        return compile_beside(self._model, function, given, eagerly=self._eagerly)

    def _extracted_beside(self, mapping: backend.Mapping, arrays: dict[str, Nested]) -> Nested:
        return self._extracted(mapping, arrays["x"], arrays)

    def _ran(self) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        try:
            return self._run()
        except Exception as error:
            if self._beside is None:
                raise
            return self._ran_alone(error)

    def _ran_alone(self, error: Exception) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        """Go on without `beside` if the layers alone can be extracted; otherwise raise `error`."""
        beside, self._beside = self._beside, None
        try:
            run = self._compiled()
            found = run()
        except Exception:
            self._beside = beside
            raise error from None
        self._run, self.failure = run, error
        return found

    def _extracted(
        self, mapping: backend.Mapping, inputs: Nested, arrays: dict[str, Nested]
    ) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        observer = _Observer(self.layers, self._extract, mapping)
        # Without a value in its scope, Keras passes None to a weight's regularizer.
        weights = [(variable, variable.value) for variable in self._model.trainable_variables]
        scope = keras.StatelessScope(
            [*weights, *mapping, *seeds(self._model)], collect_losses=self._beside is not None
        )
        with scope, backend.undisturbed():
            with observe_calls(observer):
                outputs = self._model(inputs, **training_argument(self._model, True))
            beside = self._computed_beside([*weights, *mapping], arrays, outputs)
        seen = observer.outside_loops()
        calls = observer.calls
        self._several = {path: calls[path] > 1 for path in calls} | self._several
        self.places = [self._place(*key) for key, _ in seen]
        self._finish = [kept.finish for _, kept in seen]
        self.unseen = [path for path in self.layers if path not in {key[0] for key, _ in seen}]
        return [kept.tensors for _, kept in seen], beside

    def _computed_beside(
        self, mapping: backend.Mapping, arrays: dict[str, Nested], outputs: Nested
    ) -> list[Tensor]:
        if self._beside is None:
            return []
        try:
            with shapes_in_errors(self._beside.arrays):
                return self._beside(mapping, arrays, outputs)
        except Exception as error:
            self._beside, self.failure = None, error
            return []

    def _place(self, path: str, call: int, site: str) -> Place:
        return Place(f"{path}:{call}" if call or self._several[path] else path, site)


class _Observer(Generic[Result]):
    """Extracts from the calls of the layers in one run.

    Attributes:
        calls: by path, the number of calls.
    """

    def __init__(self, layers: Layers, extract: Extract[Result], mapping: backend.Mapping) -> None:
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._extract, self._mapping, self._extracting = extract, mapping, False
        self._trace, self._looped = backend.current_trace(), set[str]()
        self.calls = Counter[str]()
        self._seen: list[tuple[Key, Extraction[Result]]] = []

    def __call__(self, call: LayerCall) -> None:
        """Extract from `call`, if its layer is watched."""
        path = self._paths.get(id(call.layer))
        if path is None or self._extracting:
            return
        if call.trace is not self._trace:
            self._looped.add(path)
            return
        number, self.calls[path] = self.calls[path], self.calls[path] + 1
        self._extracting = True  # an extraction may call the layer
        try:
            found = self._extract(self._mapping, path, call)
            self._seen.extend(((path, number, site), kept) for site, kept in found)
        finally:
            self._extracting = False

    def outside_loops(self) -> list[tuple[Key, Extraction[Result]]]:
        """Return what was extracted from each place: path, number of the call and site.

        A layer inside a loop may also be called once outside it. This call is dropped: it does not
        represent all calls.
        """
        return [(key, kept) for key, kept in self._seen if key[0] not in self._looped]
