"""Lists of weights in which some layers have taken a step and later layers have not."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.introspection.layer_tree import Layers

GROUPS = 8
"""The largest number of functions for gradients. Each takes time when it runs first."""


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
    """

    def __init__(self, loss: LossProbe, layers: Sequence[LayerWeights]) -> None:
        self.layers = list(layers)
        self._places = sorted({place for layer in layers for place in layer.places})
        self._gradients = loss.only(self._places)

    def gradients(self, values: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Return the gradients of the group's weights at `values`, by their indices."""
        return dict(zip(self._places, self._gradients(values), strict=True))


def in_groups(loss: LossProbe, layers: Sequence[LayerWeights]) -> list[Group]:
    """Divide layers, which are in order, into groups of about the same size."""
    count = min(GROUPS, len(layers))
    bounds = [len(layers) * number // count for number in range(count + 1)]
    return [Group(loss, layers[begin:end]) for begin, end in pairwise(bounds)]


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
