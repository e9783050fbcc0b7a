"""Extractions from the calls of layers while a model runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from kbn import backend
from kbn.common.types import Tensor
from kbn.introspection.layer_calls import LayerCall
from kbn.introspection.layer_tree import Layers

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


class Observer(Generic[Result]):
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
        if call.trace != self._trace:
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
