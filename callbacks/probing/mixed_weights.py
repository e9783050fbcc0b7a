"""Lists of weights in which some layers have taken a step and later layers have not."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.introspection.layer_tree import Layers

GROUPS = 8
"""The largest number of functions for gradients. Each takes time when it runs first."""

Gradients: TypeAlias = Callable[[Sequence[np.ndarray]], dict[int, np.ndarray]]
"""A function of the values of all weights that returns gradients by the weights' indices."""


class LayerWeights:
    """The weights of one layer, and those that the loss reads before them.

    Attributes:
        path: the layer's path.
        places: indices of the layer's weights into the model's trainable variables.
    """

    def __init__(self, path: str, own: Sequence[int], earlier: Sequence[int]) -> None:
        """Store indices into the model's trainable variables.

        Args:
            path: the layer's path.
            own: indices of the layer's weights.
            earlier: indices of the weights that are used before it.
        """
        self.path, self.places, self._earlier = path, list(own), list(earlier)

    def own(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the layer's share of `values`, which has them by index, as one float64 vector."""
        return np.concatenate([np.ravel(values[i]).astype(np.float64) for i in self.places])

    def mixed(
        self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]
    ) -> list[np.ndarray] | None:
        """Return `before` with the earlier layers' weights of `after`; None if they are equal."""
        if all(np.array_equal(before[i], after[i]) for i in self._earlier):
            return None
        mixed = list(before)
        for i in self._earlier:
            mixed[i] = after[i]
        return mixed


class Group:
    """Consecutive layers whose gradients one function computes.

    A function per layer would do without the gradients of all other layers, but each function takes
    time when it runs first.

    Attributes:
        layers: the layers, in order.
        gradients: a function of values of all weights that returns gradients at these values, by
            index: at least those of the group's weights.
    """

    def __init__(self, layers: Sequence[LayerWeights], gradients: Gradients) -> None:
        self.layers, self.gradients = list(layers), gradients


def in_groups(loss: LossProbe, layers: Sequence[LayerWeights]) -> list[Group]:
    """Divide layers, which are in order, into groups.

    The first layers need almost the whole gradient. There is a function for that already, but it
    takes longest, so the first group has about half the size of the others.
    """
    count = min(GROUPS, len(layers))
    least = max(len(layers) // (2 * count - 1), 1)
    rest, others = layers[least:], count - 1
    bounds = [len(rest) * number // others for number in range(count)] if others else []
    whole = Group(layers[:least], lambda values: dict(enumerate(loss(values)[1])))
    parts = [rest[begin:end] for begin, end in pairwise(bounds)]
    return [whole, *(Group(part, _gradients_of(loss, part)) for part in parts)]


def _gradients_of(loss: LossProbe, layers: Sequence[LayerWeights]) -> Gradients:
    places = sorted({place for layer in layers for place in layer.places})
    gradients = loss.only(places)
    return lambda values: dict(zip(places, gradients(values), strict=True))


def in_order(loss: LossProbe, chosen: Layers) -> tuple[list[LayerWeights], list[str]]:
    """Return the chosen layers in order, and the paths of those whose weights the loss never reads.

    The order is the one in which the loss first reads each weight. This includes a block's own
    weights, before or after its inner layers, the model's own weights, and shared ones. Weights
    that only a regularizer reads come last.

    Args:
        loss: a traced probe.
        chosen: the layers to watch, by path.
    """
    place_of = {id(variable): place for place, variable in enumerate(loss.variables)}
    turn = {place: number for number, place in enumerate(loss.used)}
    found: list[tuple[float, LayerWeights]] = []
    missed = []
    for path, layer in chosen.items():
        own = [place_of[id(v)] for v in layer.trainable_variables if id(v) in place_of]
        first = min((turn[place] for place in own if place in turn), default=math.inf)
        if math.isinf(first):
            missed.append(path)
            continue
        earlier = [p for p, at in turn.items() if at < first and p not in own]
        found.append((first, LayerWeights(path, own, earlier)))
    return [place for _, place in sorted(found, key=lambda pair: pair[0])], missed
