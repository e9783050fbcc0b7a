"""Weights of two times in one list: the layers before a layer as they are after a step."""

import math
from collections.abc import Sequence

import numpy as np

from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.introspection.layer_tree import Layers


class LayerWeights:
    """A layer's place among the others, as far as their weights tell.

    Attributes:
        path: the layer's path.
    """

    def __init__(self, path: str, own: Sequence[int], earlier: Sequence[int]) -> None:
        """Take the places of weights among the model's trainable variables.

        Args:
            path: the layer's path.
            own: the places of the layer's weights.
            earlier: those of the weights that are used before it.
        """
        self.path, self._own, self._earlier = path, list(own), list(earlier)

    def own(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Return the layer's share of `values` as one float64 vector."""
        return np.concatenate([np.ravel(values[i]).astype(np.float64) for i in self._own])

    def mixed(
        self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]
    ) -> list[np.ndarray] | None:
        """Return `before` with the earlier layers' weights of `after`; None where none differs."""
        if all(np.array_equal(before[i], after[i]) for i in self._earlier):
            return None
        mixed = list(before)
        for i in self._earlier:
            mixed[i] = after[i]
        return mixed


def in_order(loss: LossProbe, chosen: Layers) -> tuple[list[LayerWeights], list[str]]:
    """Return the chosen layers in order, and the paths of those that have no place in it.

    The order is that in which the loss first reads each weight, whoever holds it: a block's own
    before its inner layers or behind them, the model's own, one that several layers share. What
    a regularizer alone reads comes last.

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
