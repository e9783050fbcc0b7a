"""What is measured: the activations of chosen layers on a fixed batch, reduced inside one trace.

Layers are tapped only while the compiled function is traced, so that any model can be watched
(nested, subclassed, shared layers) and nothing stays attached to it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from kbn import tracing
from kbn.callbacks.layer_tree import Layers
from kbn.reduction import reduce_activation
from kbn.sketch import DistributionSketch
from kbn.tags import Tap
from kbn.tap import Call, seeds, tapped, training_argument


class UnknownShapeError(ValueError):
    """An activation's shape is known only once the model runs."""


class Probe:
    """A compiled look at `layers` of `model` on a fixed batch, as training would see it.

    The model runs as in `fit` (`training=True`: normalization by batch statistics, dropout on)
    in a `keras.StatelessScope`: what it would assign is dropped. Dropout masks are the same in
    every record, so that activations differ only where weights do.

    Attributes:
        taps: the places that are watched, in the order in which the model calls them.
        unseen: paths of layers that cannot be watched: the model does not call them in training,
            or calls them inside a loop, whose tensors cannot leave it.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Any,
        layers: Layers,
        sites: Sequence[str],
        max_samples: int,
    ) -> None:
        """Trace the model.

        Raises:
            ValueError: where the model refuses the inputs.
        """
        self.taps: list[Tap] = []
        self.unseen: list[str] = []
        self._model, self._layers, self._sites = model, layers, sites
        self._max_samples = max_samples
        tracing.check_backend("kbn.callbacks")
        try:
            self._run = tracing.compile_for(self._reduced_activations, inputs)
        except UnknownShapeError:
            raise
        except Exception as error:
            shapes = tree.map_structure(lambda x: tuple(x.shape), inputs)
            raise ValueError(
                f"The model cannot be run on probe_data: {_reason(error)} Received: probe_data of "
                f"shape {shapes} (the samples axis included)"
            ) from error

    def __call__(self) -> dict[Tap, DistributionSketch]:
        """Run the model on the batch and return a sketch of every watched activation."""
        return dict(zip(self.taps, map(DistributionSketch, self._run()), strict=True))

    def _reduced_activations(self, inputs: Any) -> list[dict[str, Any]]:
        paths = {id(layer): path for path, layer in self._layers.items()}
        trace, calls, seen, looped = tracing.current_trace(), Counter[str](), [], set()

        def observe(call: Call) -> None:
            path = paths.get(id(call.layer))
            if path is None:
                return
            if call.trace is not trace:
                looped.add(path)
                return
            for site, value in (("input", call.inputs), ("output", call.outputs)):
                if site in self._sites:
                    seen.extend(self._reduce(call.layer, (path, calls[path], site), value))
            calls[path] += 1

        with tapped(observe), keras.StatelessScope(state_mapping=seeds(self._model)):
            self._model(inputs, **training_argument(self._model, True))
        # Of a loop's calls the first may stand outside it, and would pass for the whole.
        seen = [(key, reduced) for key, reduced in seen if key[0] not in looped]
        self.taps = [_tap(key, calls) for key, _ in seen]
        self.unseen = [path for path in self._layers if path not in {key[0] for key, _ in seen}]
        return [reduced for _, reduced in seen]

    def _reduce(
        self, layer: keras.layers.Layer, key: tuple[str, int, str], value: Any
    ) -> list[Any]:
        path, call, site = key
        tensors = [x for x in tree.flatten(value) if ops.is_tensor(x)]
        names = [site] if len(tensors) == 1 else [f"{site}:{i}" for i in range(len(tensors))]
        axis = _channel_axis(layer)
        for x in tensors:
            if None in x.shape:
                raise UnknownShapeError(
                    "A layer can be watched only where the shape of its activations follows from "
                    f"that of the inputs. Received: {path!r}, whose {site} has shape {x.shape}"
                )
        return [
            ((path, call, name), reduce_activation(x, axis, self._max_samples))
            for name, x in zip(names, tensors, strict=True)
        ]


def _reason(error: Exception) -> str:
    """Return the line of a Keras error that says what is wrong, not where."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    return lines[0] if lines else type(error).__name__


def _tap(key: tuple[str, int, str], calls: Counter[str]) -> Tap:
    path, call, site = key
    return Tap(path if calls[path] == 1 else f"{path}:{call}", site)


def _channel_axis(layer: keras.layers.Layer) -> int:
    # Elsewhere `axis` means something else: what Softmax sums over, Concatenate joins along.
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
        return layer.axis
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1
