"""Checks of the layer's options: allowed values and allowed combinations."""

import keras

from kbn.common import checks
from kbn.common.types import FunctionName


def check_functions(arguments: dict[str, FunctionName]) -> dict[str, FunctionName]:
    """Check the arguments that are initializers, regularizers or constraints; return them."""
    for getter, kind, optional in (
        (keras.initializers.get, "_initializer", False),
        (keras.regularizers.get, "_regularizer", True),
        (keras.constraints.get, "_constraint", True),
    ):
        chosen = {name: value for name, value in arguments.items() if name.endswith(kind)}
        checks.functions(getter, optional=optional, **chosen)
    return arguments


def check_input_shape(
    layer: keras.layers.BatchNormalization, shape: tuple[int | None, ...]
) -> None:
    """Check that `layer` can normalize inputs of `shape`.

    Raises:
        ValueError: if the channel axis does not exist, if its size is unknown, or if it is the
            axis along which ghost batches are cut.
    """
    rank, received = len(shape), f"axis={layer.axis}, input_shape={tuple(shape)}"
    if not rank:
        raise ValueError(f"Inputs need a channel axis, but they are scalars. Received: {received}")
    if not -rank <= layer.axis < rank:
        raise ValueError(
            f"axis must be in [{-rank}, {rank - 1}] for an input of rank {rank}. "
            f"Received: {received}"
        )
    if shape[layer.axis] is None:
        raise ValueError(f"The channel axis must have a known size. Received: {received}")
    if layer.virtual_batch_size is not None and layer.axis % rank == 0:
        raise ValueError(
            "virtual_batch_size cuts axis 0 into batches, so axis 0 cannot be the channel axis. "
            f"Received: virtual_batch_size={layer.virtual_batch_size}, {received}"
        )


def checked_zero_debias(zero_debias: object, momentum: float | None) -> bool:
    """Check `zero_debias`, also in combination with `momentum`."""
    if checks.boolean("zero_debias", zero_debias) and (momentum is None or momentum == 1):
        raise ValueError(
            "zero_debias=True needs a momentum in [0, 1): the average over all batches "
            "(momentum=None) has no bias to remove, and with momentum=1 the statistics never "
            f"change. Received: momentum={momentum!r}"
        )
    return bool(zero_debias)


def checked_virtual_batch_size(size: object, synchronized: bool) -> int | None:
    """Check `virtual_batch_size`, also in combination with `synchronized`."""
    if size is None:
        return None
    size = checks.integer("virtual_batch_size", size, low=1)
    if synchronized:
        raise ValueError(
            "virtual_batch_size makes batches smaller, and synchronized=True makes them larger: "
            f"choose one. Received: virtual_batch_size={size}, synchronized=True"
        )
    return size


def checked_fused(
    fused: str | bool, *, renorm: bool, synchronized: bool, virtual: int | None
) -> str | bool:
    """Check `fused`, also in combination with options that the fused kernel does not support."""
    if fused is True and (renorm or synchronized or virtual is not None):
        raise ValueError(
            "The fused kernel does not support renorm, synchronized or virtual_batch_size. Use "
            "fused='auto'. Received: fused=True, "
            f"renorm={renorm}, synchronized={synchronized}, virtual_batch_size={virtual}"
        )
    return checks.one_of("fused", fused, ("auto", True, False))
