"""What is measured: something about the calls of chosen layers on a fixed batch, inside one trace.

Layer calls are observed only while the compiled function is traced, so that any model can be
watched (nested, subclassed, shared layers) and nothing stays attached to it.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import tree

from kbn.backend.tensorflow import replicas, tracing
from kbn.introspection.layer_calls import (
    LayerCall,
    observe_calls,
    runs_eagerly,
    seeds,
    training_argument,
)
from kbn.introspection.layer_tree import Layers, layer_paths, tell_unwatched
from kbn.records.tags import Place

Finish = Callable[[list[dict[str, Any]]], list[Any]]


class Extraction(NamedTuple):
    """What is kept of one place.

    Attributes:
        tensors: tensors of bounded size, by name; they leave the device.
        finish: makes of them, as NumPy arrays, what the record is about: of all places at once that
            have the same `finish`, in a list, for each one thing.
    """

    tensors: dict[str, Any]
    finish: Finish


Extract = Callable[[str, LayerCall], list[tuple[str, Extraction]]]
"""What to keep of a layer's call, given its path: for each place worth a name of its own a site,
and what is kept."""


class RefusalError(ValueError):
    """What is asked for cannot be had of this model; the message says all of it."""


class Probe:
    """A compiled look at `layers` of `model` on a fixed batch, as training would see it.

    The model runs as in `fit` (`training=True`: normalization by batch statistics, dropout on)
    in a `keras.StatelessScope`: what it would assign is dropped. Dropout masks are the same in
    every record, so that activations differ only where weights do.

    A model that runs eagerly is run so here too. Python may then call its layers more often, or
    not at all, in another record: places appear in the records that have them, each the i-th call
    under the name that it had first.

    Attributes:
        layers: the layers, by path.
        places: the places that are watched, in the order in which the model calls them; of a model
            that runs eagerly, those of the last time.
        unseen: paths of layers that cannot be watched: the model does not call them in training,
            or calls them inside a loop, whose tensors cannot leave it.
    """

    def __init__(self, model: keras.Model, inputs: Any, layers: Layers, extract: Extract) -> None:
        """Trace the model.

        Raises:
            ValueError: where the model refuses the inputs.
        """
        self.places: list[Place] = []
        self.unseen: list[str] = []
        self._model, self.layers, self._extract, self._extracting = model, layers, extract, False
        self._several: dict[str, bool] = {}  # by path, whether calls have a number
        tracing.check_backend("kbn.callbacks")
        with told_by_shape(inputs):
            self._run = tracing.compile_for(self._looked_at, inputs, eagerly=runs_eagerly(model))

    def __call__(self) -> dict[Place, Any]:
        """Run the model on the batch and return what the looks made of it, place by place."""
        kept = self._run()  # first: where Python runs the model, it finds the places anew
        groups: dict[Finish, list[int]] = {}
        for number, finish in enumerate(self._finish):
            groups.setdefault(finish, []).append(number)
        found: dict[int, Any] = {}
        for finish, numbers in groups.items():
            found.update(zip(numbers, finish([kept[i] for i in numbers]), strict=True))
        return {place: found[number] for number, place in enumerate(self.places)}

    def tell_unseen(self, layers: Any) -> None:
        """Warn of layers that cannot be watched; raise where one was named, or none is left.

        Args:
            layers: the user's argument.
        """
        problem = (
            "These layers cannot be watched, since the model does not call them in training "
            "or calls them inside a loop"
        )
        if not self.places:
            names = ", ".join(self.unseen)
            raise ValueError(
                f"{problem}: {names}. Name others in layers. Received: layers={layers!r}"
            )
        if self.unseen:
            tell_unwatched(problem, layers, self.unseen, layer_paths(self._model))

    def _looked_at(self, inputs: Any) -> list[dict[str, Any]]:
        paths = {id(layer): path for path, layer in self.layers.items()}
        trace, calls, looped = tracing.current_trace(), Counter[str](), set()
        seen: list[tuple[tuple[str, int, str], Extraction]] = []

        def observe(call: LayerCall) -> None:
            path = paths.get(id(call.layer))
            if path is None or self._extracting:
                return
            if call.trace is not trace:
                looped.add(path)
                return
            number, calls[path] = calls[path], calls[path] + 1
            self._extracting = True  # a look may call the layer itself
            try:
                seen.extend(
                    ((path, number, site), kept) for site, kept in self._extract(path, call)
                )
            finally:
                self._extracting = False

        scope = keras.StatelessScope(state_mapping=seeds(self._model))
        with observe_calls(observe), scope, replicas.alone():
            self._model(inputs, **training_argument(self._model, True))
        # Of a loop's calls the first may stand outside it, and would pass for the whole.
        seen = [(key, kept) for key, kept in seen if key[0] not in looped]
        self._several = {path: calls[path] > 1 for path in calls} | self._several
        self.places = [self._place(*key) for key, _ in seen]
        self._finish = [kept.finish for _, kept in seen]
        self.unseen = [path for path in self.layers if path not in {key[0] for key, _ in seen}]
        return [kept.tensors for _, kept in seen]

    def _place(self, path: str, call: int, site: str) -> Place:
        return Place(f"{path}:{call}" if call or self._several[path] else path, site)


def build(model: keras.Model, inputs: Any) -> None:
    """Create the weights of a model that has none yet, as its first call would.

    Raises:
        ValueError: where the model refuses the inputs.
    """
    tracing.check_backend("kbn.callbacks")  # every hook comes here first
    if all(layer.built for layer in (model, *layer_paths(model).values())):
        return

    def call(x: Any) -> list[Any]:
        with keras.StatelessScope(state_mapping=seeds(model)):
            model(x, **training_argument(model, True))
        return []

    with told_by_shape(inputs):
        tracing.compile_for(call, inputs, eagerly=runs_eagerly(model))


class told_by_shape:  # noqa: N801 - reads as the context manager it is
    """Tells what a model says against the probe, with the shapes that it was given."""

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Raise ValueError with the reason."""
        if not isinstance(error, Exception) or isinstance(error, RefusalError):
            return
        shapes = tree.map_structure(lambda x: tuple(x.shape), self._inputs)
        raise ValueError(
            f"The model cannot be run on probe_data: {_reason(error)} Received: probe_data of "
            f"shape {shapes} (the samples axis included)"
        ) from error


def _reason(error: Exception) -> str:
    """Return the line of a Keras error that says what is wrong, not where."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    return lines[0] if lines else type(error).__name__
