"""Weights of two times in one list: the layers before a layer as they are after a step."""

import math
from collections.abc import Sequence

import numpy as np

from kbn.callbacks.layer_tree import Layers
from kbn.callbacks.loss_probe import LossProbe


class Place:
    """A layer's place among the others, as far as their weights tell.

    Attributes:
        path: the layer's path.
    """

    def __init__(self, path: str, own: Sequence[int], earlier: Sequence[int]) -> None:
        """Take the places of weights among the model's trainable variables.

        Args:
            path: the layer's path.
            own: the places of the layer's weights.
            earlier: those of the weights of the layers before it.
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


def in_order(loss: LossProbe, chosen: Layers, paths: Layers) -> tuple[list[Place], list[str]]:
    """Return the chosen layers in the order of their first calls, and the paths that have none.

    Args:
        loss: a traced probe.
        chosen: the layers to watch, by path.
        paths: all layers of the model, by path.
    """
    called = {id(layer): number for number, layer in enumerate(loss.called)}
    place_of = {id(variable): place for place, variable in enumerate(loss.variables)}
    turn: dict[int, int] = {}
    for layer in paths.values():
        if id(layer) in called:
            # Of all that hold a weight, the one that is done first counts: the innermost, or of
            # those that share it the first to be called.
            held = (place_of[id(v)] for v in layer.trainable_variables if id(v) in place_of)
            for place in held:
                turn[place] = min(turn.get(place, len(called)), called[id(layer)])
    found: list[tuple[float, Place]] = []
    missed = []
    for path, layer in chosen.items():
        own = [place_of[id(v)] for v in layer.trainable_variables if id(v) in place_of]
        first = min((turn[place] for place in own if place in turn), default=math.inf)
        if math.isinf(first):
            missed.append(path)
            continue
        earlier = [p for p, at in turn.items() if at < first and p not in own]
        found.append((first, Place(path, own, earlier)))
    return [place for _, place in sorted(found, key=lambda pair: pair[0])], missed
