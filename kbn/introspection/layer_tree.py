"""A unique path for every layer of a model, and the selection of layers."""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import keras

from kbn.common.warning import warn

Layers = dict[str, keras.layers.Layer]
Selector: TypeAlias = (
    str | keras.layers.Layer | type[keras.layers.Layer] | Callable[[keras.layers.Layer], bool]
)
"""A path or a glob pattern, a layer, a type of layers, or a predicate of a layer."""
LayerSelection: TypeAlias = Selector | Sequence[Selector] | set[Selector] | None
"""The `layers` argument of callbacks; None means the preferred layers."""
NORMALIZATIONS = tuple(
    getattr(keras.layers, name)
    for name in (
        "BatchNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "RMSNormalization",
        "UnitNormalization",
    )
)


LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)
"""Layers that call inner layers in a loop."""


def layer_paths(model: keras.Model) -> Layers:
    """Return every layer of `model` by a path like `block_1/conv`, in depth-first order.

    Keras's own `layer.path` is missing for layers without weights. Siblings in a subclassed model
    may have the same name, so the second `r` becomes `r_2`. A shared layer is listed once, at the
    place where it was found first.
    """
    paths: Layers = {}
    seen: set[int] = set()

    def visit(parent: keras.layers.Layer, prefix: str) -> None:
        # Keras has no public accessor for the sub-layers of a layer that is not a model.
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = _unused(f"{prefix}{layer.name}", paths)
            paths[path] = layer
            visit(layer, f"{path}/")

    visit(model, "")
    # A single layer, as a part to watch, has no layers inside.
    return paths if paths or isinstance(model, keras.Model) else {model.name: model}


def _unused(path: str, paths: Collection[str]) -> str:
    candidate, number = path, 2
    while candidate in paths:
        candidate, number = f"{path}_{number}", number + 1
    return candidate


Preferred = Mapping[str, Callable[[Layers], Layers]]
"""Functions that choose among all layers, by the name of the kind that they choose.

If the user names no layers, the first kind that occurs is used.
"""


def normalizations(paths: Layers) -> Layers:
    """Return the normalization layers."""
    return {path: layer for path, layer in paths.items() if isinstance(layer, NORMALIZATIONS)}


def trainable(paths: Layers) -> Layers:
    """Return the layers that own trainable weights, by whatever name.

    A layer owns a weight if none of its inner layers has it. A layer inside a loop cannot be
    watched, so the layer with the loop represents it.
    """
    found = {_outside_loops(path, paths) for path, each in paths.items() if _owns_weights(each)}
    return {path: layer for path, layer in paths.items() if path in found}


def trainable_but_normalizations(paths: Layers) -> Layers:
    """Return the layers that own trainable weights, without the normalization layers."""
    others = normalizations(paths)
    return {path: layer for path, layer in trainable(paths).items() if path not in others}


NORMALIZATIONS_ELSE_TRAINABLE: Preferred = {
    "normalization layers": normalizations,
    "layers with trainable weights": trainable,
}


def _owns_weights(layer: keras.layers.Layer) -> bool:
    inner = layer._flatten_layers(include_self=False, recursive=True)
    theirs = {id(weight) for each in inner for weight in each.trainable_variables}
    return any(id(weight) not in theirs for weight in layer.trainable_variables)


def _outside_loops(path: str, paths: Layers) -> str:
    """Return the outermost layer with a loop around the layer, or else the layer itself."""
    parts = path.split("/")
    around = ["/".join(parts[:length]) for length in range(1, len(parts))]
    return next((each for each in around if isinstance(paths.get(each), LOOPS)), path)


def select(
    layers: LayerSelection, paths: Layers, preferred: Preferred = NORMALIZATIONS_ELSE_TRAINABLE
) -> Layers:
    """Return the layers of `paths` that the user's `layers` argument selects, in model order.

    Args:
        layers: a layer, a path or glob pattern, a layer type, or a predicate of a layer, or a list
            of those. None: the first of `preferred`.
        paths: all layers of the model, by path.
        preferred: the kinds to use if `layers` is None.

    Raises:
        ValueError: if an entry matches no layer; the message lists all paths.
    """
    if layers is None:
        return _default(paths, preferred)
    chosen: set[str] = set()
    for entry in layers if isinstance(layers, list | tuple | set) else [layers]:
        matches = _matcher(entry)
        found = {path for path, layer in paths.items() if matches(path, layer)}
        if not found:
            raise ValueError(
                f"layers matches no layer of this model. Received: {entry!r}. {_listing(paths)}"
            )
        chosen |= found
    return {path: layer for path, layer in paths.items() if path in chosen}


def asked_for(layers: LayerSelection, paths: Layers) -> set[str]:
    """Return the paths that `layers` names individually, not by a pattern, type or predicate."""
    entries = layers if isinstance(layers, list | tuple | set) else [layers]
    return {
        path
        for path, layer in paths.items()
        if any(entry is layer or (isinstance(entry, str) and entry == path) for entry in entries)
    }


def check_layers(layers: LayerSelection) -> None:
    """Check the `layers` argument as far as possible without a model."""
    if layers is None:
        return
    entries = layers if isinstance(layers, list | tuple | set) else [layers]
    if not entries:
        raise ValueError(
            f"layers must name at least one layer, or be None. Received: layers={layers!r}"
        )
    for entry in entries:
        _matcher(entry)


def report_unwatched(
    problem: str, layers: LayerSelection, unwatched: Iterable[str], paths: Layers
) -> None:
    """Warn about layers that cannot be watched, or raise if the user named one of them.

    The warning names layers that the user chose. Layers that were chosen by default are counted.

    Args:
        problem: the reason, as the beginning of a sentence; the paths or their count are its end.
        layers: the user's argument.
        unwatched: the paths of these layers.
        paths: all layers of the model, by path.

    Raises:
        ValueError: if `layers` names one of them individually.
    """
    unwatched = list(unwatched)
    count = f"{len(unwatched)} of those that are watched by default"
    problem = f"{problem}: {count if layers is None else ', '.join(unwatched)}."
    if asked_for(layers, paths) & set(unwatched):
        raise ValueError(f"{problem} Name others in layers. Received: layers={layers!r}")
    warn(problem)


def _default(paths: Layers, preferred: Preferred) -> Layers:
    for choose in preferred.values():
        found = choose(paths)
        if found:
            return found
    raise ValueError(
        f"The model has no {' and no '.join(preferred)}: say which layers to watch. "
        f"{_listing(paths)}"
    )


def _matcher(entry: object) -> Callable[[str, keras.layers.Layer], bool]:
    if isinstance(entry, str):
        return lambda path, _: fnmatch.fnmatchcase(path, entry)
    if isinstance(entry, keras.layers.Layer):
        return lambda _, layer: layer is entry
    if isinstance(entry, type) and issubclass(entry, keras.layers.Layer):
        return lambda _, layer: isinstance(layer, entry)
    if callable(entry) and not isinstance(entry, type):
        return lambda _, layer: bool(entry(layer))
    raise TypeError(
        "layers must be layers, paths or glob patterns, layer types or predicates. "
        f"Received: {entry!r} in layers"
    )


def _listing(paths: Iterable[str]) -> str:
    return f"Layers of the model: {', '.join(paths) or 'none'}."
