"""What `CovariateShift` extracts: the inputs and the outputs of a layer."""

import functools
from collections.abc import Callable, Iterable, Sequence

import keras
from keras import ops, tree

from kbn import backend
from kbn.callbacks.probing.compiled_runs import RefusalError
from kbn.callbacks.probing.extraction import Extract, Extraction, Finish
from kbn.common.types import Nested, Tensor
from kbn.distributions.reduction import Reduction
from kbn.distributions.sketch import DistributionSketch
from kbn.introspection.layer_calls import LayerCall

OnDevice = Callable[[Tensor], dict[str, Tensor]]

_BOUNDS = {
    "sigmoid": (0, 1),
    "hard_sigmoid": (0, 1),
    "tanh": (-1, 1),
    "hard_tanh": (-1, 1),
    "softsign": (-1, 1),
    "relu6": (0, 6),
}


def activations(
    sites: Sequence[str], max_samples: int, *, channels_first: bool = False
) -> Extract[DistributionSketch]:
    """Return an extraction of the activations at `sites`, each reduced to `max_samples` values.

    Args:
        sites: which sites of a layer to extract.
        max_samples: the largest number of values to keep of one activation.
        channels_first: whether images have their channels in axis 1 if the layer has no
            `data_format`.
    """

    @functools.cache
    def reduction_of(
        shape: tuple[int, ...], axis: int, bounds: tuple[float, float] | None
    ) -> tuple[OnDevice, Finish[DistributionSketch]]:
        reduction = Reduction(shape, axis, max_samples, bounds)
        return backend.shared(reduction.on_device), reduction.on_host

    def extract(
        _: backend.Mapping, path: str, call: LayerCall
    ) -> list[tuple[str, Extraction[DistributionSketch]]]:
        found = []
        for site, value in (("input", call.inputs), ("output", call.outputs)):
            bounds = _bounds(call.layer) if site == "output" else None
            for name, x in _tensors(path, site, value) if site in sites else ():
                shape = tuple(map(int, x.shape))
                axis = _channel_axis(call.layer, channels_first and len(shape) > 3)
                on_device, on_host = reduction_of(shape, axis, bounds)
                found.append((name, Extraction(on_device(x), on_host)))
        return found

    return extract


def _tensors(path: str, site: str, value: Nested) -> list[tuple[str, Tensor]]:
    """Return the tensors of `value`, and a site for each."""
    tensors = [x for x in tree.flatten(value) if ops.is_tensor(x)]
    for x in tensors:
        if x.dtype == "string":
            raise RefusalError(
                f"Strings have no distribution. Leave {path!r} out of layers. Received: {path!r}, "
                f"whose {site} is of dtype string"
            )
        if None in x.shape:
            raise RefusalError(
                "Only activations of static shape can be recorded. Leave the layer out of layers. "
                f"Received: {path!r}, whose {site} has shape {x.shape}"
            )
    names = [site] if len(tensors) == 1 else [f"{site}:{i}" for i in range(len(tensors))]
    return list(zip(names, tensors, strict=True))


_ALONG_LAST_AXIS = keras.layers.LayerNormalization, keras.layers.RMSNormalization


def puts_channels_first(layers: Iterable[keras.layers.Layer]) -> bool:
    """Return whether the network has its channels first, which is so if any of `layers` has.

    Other layers of the same network, such as `Flatten`, may have another `data_format`.
    """
    return any(getattr(layer, "data_format", None) == "channels_first" for layer in layers)


def _channel_axis(layer: keras.layers.Layer, channels_first: bool) -> int:
    # In other layers `axis` means something else: the axis of Softmax's sum, or of Concatenate.
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
        return layer.axis
    own = getattr(layer, "data_format", None)
    if own is not None:
        return 1 if own == "channels_first" else -1
    # These work along the last axis in every network.
    along_last = isinstance(layer, _ALONG_LAST_AXIS) or hasattr(layer, "kernel")
    return 1 if channels_first and not along_last else -1


def _bounds(layer: keras.layers.Layer) -> tuple[float, float] | None:
    """Return the smallest and the largest value of a layer's activation function."""
    # An RNN's output is not the output of its activation function.
    ends_with_activation = isinstance(layer, keras.layers.Activation) or hasattr(layer, "kernel")
    if not ends_with_activation:
        return None
    return _BOUNDS.get(getattr(getattr(layer, "activation", None), "__name__", ""))
