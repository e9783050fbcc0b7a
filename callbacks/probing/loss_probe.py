"""The gradient of the loss of a fixed batch at any weights, without touching the model's own."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.compiled_runs import build, compile_beside
from kbn.callbacks.probing.losses import LossOf, check_loss, given
from kbn.callbacks.probing.probe_data import Batch
from kbn.common.types import Nested, Tensor


class LossProbe:
    """A compiled evaluation of the loss and its gradient, as in a training step.

    The model runs in training mode: it normalizes with batch statistics, and dropout is on, always
    with the same masks. The loss is that of `compute_loss`, which includes the losses of layers and
    regularizers. Weights are an argument, and the model's assignments are dropped. Gradients are
    not scaled, clipped or accumulated. A model that runs eagerly runs eagerly here too.

    Attributes:
        variables: the model's trainable variables, in the order of the values.
        used: indices into `variables`, in the order in which the loss first reads them.
    """

    def __init__(
        self,
        model: keras.Model,
        batch: Batch,
        who: str,
        *,
        elsewhere: bool = False,
        eagerly: bool = False,
    ) -> None:
        """Trace the model.

        Args:
            model: a model with a loss.
            batch: the batch whose loss is computed.
            who: name of the callback, for messages.
            elsewhere: whether a loop or another model trains `model`.
            eagerly: whether `fit` runs eagerly, although `model` alone would not.

        Raises:
            ValueError: if there is no loss or no trainable weight, or if the model does not accept
                the batch.
        """
        check_loss(model, batch, who)
        build(model, batch.x, eagerly=eagerly)
        self.variables = list(model.trainable_variables)
        if not self.variables:
            raise ValueError(
                f"{who} needs gradients, but the model has no trainable weights. "
                f"Received: model={model.name!r}"
            )
        self.used: list[int] = []
        self._loss = LossOf(model, who, elsewhere=elsewhere)
        # Small gradients underflow in half precision, so use the scale of a LossScaleOptimizer.
        self._scale = _loss_scale(model)
        values = [variable.value for variable in self.variables]
        self._run = compile_beside(
            model, self._evaluated, given(batch), values, np.float32(1), eagerly=eagerly
        )

    def values(self) -> list[np.ndarray]:
        """Return a copy of the model's trainable weights as they are now."""
        return [backend.numpy_of(variable.value) for variable in self.variables]

    def __call__(self, values: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Return the loss at `values`, and its gradient for each of them, as NumPy arrays."""
        loss, gradients = self._scaled(self._run, values)
        return float(loss), gradients

    def only(self, places: Sequence[int]) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        """Return a function of values that computes the gradient for some of them only.

        Gradients of weights that are used late take less time, because they do not need the
        gradients of earlier activations.

        Args:
            places: indices into `variables`.
        """

        def select(found: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
            loss, gradients = found
            return loss, [gradients[place] for place in places]

        part = self._run.only(select, self.values(), np.float32(1))
        return lambda values: self._scaled(part, values)[1]

    def _scaled(
        self, run: backend.Compiled, values: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run with a loss scale at which the gradients are finite, if there is one."""
        scale = self._scale
        while True:
            loss, gradients = run(list(values), np.float32(scale))
            finite = all(np.isfinite(gradient).all() for gradient in gradients)
            if finite or scale <= 1:
                return loss, gradients
            scale = max(scale / 16, 1.0)  # the scale may have caused the overflow

    def _evaluated(
        self,
        mapping: backend.Mapping,
        arrays: dict[str, Nested],
        values: list[Tensor],
        scale: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        batch = Batch(**arrays)
        read: dict[int, None] = {}

        def loss(values: list[Tensor]) -> Tensor:
            weights = [*mapping, *zip(self.variables, values, strict=True)]
            return self._loss(batch, weights, training=True, read=read)

        found = backend.value_and_gradients(loss, values, scale)
        place_of = {id(variable): place for place, variable in enumerate(self.variables)}
        self.used = [place_of[each] for each in read if each in place_of]
        return found


def _loss_scale(model: keras.Model) -> float:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 1.0
    scaled = optimizer.scale_loss(keras.ops.ones((), "float32"))
    return float(backend.numpy_of(scaled))
