"""A compiled run of a model on a fixed batch that extracts tensors from the calls of its layers.

Layer calls are observed only while the function is traced. So any model can be watched (nested,
subclassed, with shared layers), and nothing stays attached to it.
"""

from collections.abc import Callable
from typing import Generic, Protocol

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.compiled_runs import compile_beside
from kbn.callbacks.probing.extraction import Extract, Finish, Observer, Result
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import observe_calls, seeds, training_argument
from kbn.introspection.layer_tree import Layers, LayerSelection, layer_paths, report_unwatched
from kbn.records.tags import Place


class Beside(Protocol):
    """What a probe computes beside the layers, from the same run of the model.

    Attributes:
        arrays: the batch, as NumPy arrays by name; "x" is the model's input.
    """

    arrays: dict[str, Nested]

    def __call__(
        self, mapping: backend.Mapping, arrays: dict[str, Nested], outputs: Nested
    ) -> list[Tensor]:
        """Return scalars, inside the scope of the run.

        Args:
            mapping: state for scopes, with a value for each trainable variable.
            arrays: the batch, as tensors.
            outputs: the model's outputs in training mode.
        """
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
        self._run_alone: backend.Compiled | None = None
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
        function: Callable[..., Nested] = self._alone
        given = self._inputs
        if self._beside is not None:
            function, given = self._with_beside, self._beside.arrays
        return compile_beside(self._model, function, given, eagerly=self._eagerly)

    # Methods, because TensorFlow does not bind dicts and lists to the arguments of a partial.
    def _with_beside(self, mapping: backend.Mapping, arrays: dict[str, Nested]) -> Nested:
        return self._extracted(mapping, arrays["x"], arrays)

    def _alone(self, mapping: backend.Mapping, inputs: Nested) -> Nested:
        return self._extracted(mapping, inputs, {})

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
            self._run_alone = self._run_alone or self._compiled()
            found = self._run_alone()
        except Exception:
            self._beside = beside
            raise error from None
        self._run, self.failure = self._run_alone, self.failure or error
        return found

    def _extracted(
        self, mapping: backend.Mapping, inputs: Nested, arrays: dict[str, Nested]
    ) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        observer = Observer(self.layers, self._extract, mapping)
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
        if self._beside is None or self.failure is not None:  # an eager run may have failed before
            return []
        try:
            return self._beside(mapping, arrays, outputs)
        except Exception as error:
            # Operations that it left in the graph may fail later. Then the layers run alone.
            self.failure = error
            return []

    def _place(self, path: str, call: int, site: str) -> Place:
        return Place(f"{path}:{call}" if call or self._several[path] else path, site)
