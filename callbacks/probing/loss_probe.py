"""The loss of a fixed batch, and its gradient at any weights, without touching the model's own."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.probe import RefusalError, build, compile_beside
from kbn.callbacks.probing.probe_data import Batch
from kbn.common.types import Tensor
from kbn.introspection.layer_calls import seeds, training_argument


class LossProbe:
    """A compiled evaluation of the loss and its gradient, as a training step takes them.

    The model runs in training mode (normalization by batch statistics, dropout on, always with the
    same masks) and the loss is `compute_loss`: `compile`'s, with what layers and regularizers add.
    Weights come as an argument; what the model would assign is dropped. Gradients are the loss's
    own: not scaled, not clipped, not accumulated. A model that runs eagerly is run so here too.

    Attributes:
        variables: the model's trainable variables, in the order of the values.
        used: places among `variables`, in the order in which the loss first reads their weights.
    """

    def __init__(self, model: keras.Model, batch: Batch, who: str) -> None:
        """Trace the model.

        Args:
            model: a compiled model.
            batch: what the loss is of.
            who: who asks, for messages.

        Raises:
            ValueError: where there is no loss, no trainable weight, or the model refuses the batch.
        """
        _check(model, batch, who)
        build(model, batch.x)
        self.variables = list(model.trainable_variables)
        if not self.variables:
            raise ValueError(
                f"{who} takes gradients, and the model has no trainable weight. "
                f"Received: model={model.name!r}"
            )
        self.used: list[int] = []
        self._model, self._who = model, who
        # Small gradients of half precision vanish, which is what a LossScaleOptimizer is for.
        scale = model.optimizer.scale_loss(keras.ops.ones((), "float32"))
        self._scale = float(keras.ops.convert_to_numpy(scale))
        values = [variable.value for variable in self.variables]
        self._run = compile_beside(model, self._evaluated, _given(batch), values, np.float32(1))

    def values(self) -> list[Any]:
        """Return a copy of the model's trainable weights as they are now."""
        return [keras.ops.convert_to_numpy(variable.value) for variable in self.variables]

    def __call__(self, values: Sequence[Any]) -> tuple[float, list[Any]]:
        """Return the loss at `values`, and its gradient for each of them, as NumPy arrays."""
        scale = self._scale
        while True:
            loss, gradients = self._run(list(values), np.float32(scale))
            finite = all(np.isfinite(gradient).all() for gradient in gradients)
            if finite or scale <= 1:
                return float(loss), gradients
            scale = max(scale / 16, 1.0)  # it may have been the scale that overflowed

    def _evaluated(
        self,
        mapping: backend.Mapping,
        arrays: dict[str, Any],
        values: list[Tensor],
        scale: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        batch = Batch(**arrays)
        read: dict[int, None] = {}

        def loss(values: list[Tensor]) -> Tensor:
            weights = [*mapping, *zip(self.variables, values, strict=True)]
            return loss_of(self._model, batch, weights, self._who, training=True, read=read)

        found = backend.value_and_gradients(loss, values, scale)
        place_of = {id(variable): place for place, variable in enumerate(self.variables)}
        self.used = [place_of[each] for each in read if each in place_of]
        return found


class LossesOfBothModes:
    """A compiled evaluation of the loss of a batch in training and in inference mode."""

    def __init__(self, model: keras.Model, batch: Batch, who: str) -> None:
        """Trace the model; arguments and errors as for `LossProbe`."""
        _check(model, batch, who)

        def losses(mapping: backend.Mapping, arrays: dict[str, Any]) -> list[Tensor]:
            of = Batch(**arrays)
            # As they are: without a value in its scope, Keras hands None to a weight's regularizer.
            weights = [(variable, variable.value) for variable in model.trainable_variables]
            weights += mapping
            return [loss_of(model, of, weights, who, training=each) for each in (True, False)]

        self._run = compile_beside(model, losses, _given(batch))

    def __call__(self) -> tuple[float, float]:
        """Return the loss in training mode and in inference mode."""
        training, inference = self._run()
        return float(training), float(inference)


class _Scope(keras.StatelessScope):
    """Notes whose values are read, in which order."""

    def __init__(self, mapping: backend.Mapping, read: dict[int, None]) -> None:
        super().__init__(mapping, collect_losses=True)
        self._read = read

    def get_current_value(self, variable: Any) -> Any:
        """Return the value of `variable` in this scope."""
        self._read.setdefault(id(variable))
        return super().get_current_value(variable)


def loss_of(
    model: keras.Model,
    batch: Batch,
    weights: backend.Mapping,
    who: str,
    *,
    training: bool,
    read: dict[int, None] | None = None,
) -> Tensor:
    """Return the loss of `batch`, a scalar, inside a trace.

    Args:
        model: the model, called as `fit` or `evaluate` calls it.
        batch: tensors.
        weights: pairs of a variable and its value; all trainable ones.
        who: who asks, for messages.
        training: which mode.
        read: takes the ids of the variables that are read, in the order of their first reading.
    """
    takes_training = "training" in inspect.signature(model.compute_loss).parameters
    mode = {"training": training} if takes_training else {}
    mapping = [*weights, *seeds(model)]
    with _Scope(mapping, {} if read is None else read), backend.undisturbed():
        y_pred = model(batch.x, **training_argument(model, training))
        _check_losses(model, who)
        loss = model.compute_loss(batch.x, batch.y, y_pred, batch.sample_weight, **mode)
        model._clear_losses()  # else layers go on knowing losses of this trace
    return loss


def _check(model: keras.Model, batch: Batch, who: str) -> None:
    if batch.y is None and getattr(model, "loss", None) is not None:
        raise RefusalError(
            f"{who} needs the loss, so probe_data must hold targets too: (x, y) or "
            "(x, y, sample_weight), or batches of those. Received: probe_data with inputs alone, "
            f"and a model with loss={model.loss!r}"
        )


def _check_losses(model: keras.Model, who: str) -> None:
    """Raise where the model, just called, has nothing to compute a loss from."""
    own_loss = type(model).compute_loss is not keras.Model.compute_loss
    if own_loss or getattr(model, "loss", None) is not None or _adds_loss(model):
        return
    # Keras's train_step then trains on what regularizers add, so that is the loss. One of the
    # user's own most likely adds a loss to it that nobody else knows.
    own_step = getattr(model.train_step, "__func__", None) is not keras.Model.train_step
    if own_step or not model.losses:
        received = ", and a train_step of its own beside regularizers" if model.losses else ""
        raise RefusalError(
            f"{who} needs the loss, and the model has none: give loss= to compile, call add_loss, "
            f"or override compute_loss. Received: model.loss=None{received}"
        )


def _adds_loss(model: keras.Model) -> bool:
    """Say whether add_loss was called, and not by Keras for an activity regularizer."""
    return any(
        layer.activity_regularizer is None and layer._get_own_losses()
        for layer in model._flatten_layers()
    )


def _given(batch: Batch) -> dict[str, Any]:
    return {name: part for name, part in batch._asdict().items() if part is not None}
