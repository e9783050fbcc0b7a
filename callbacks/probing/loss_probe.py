"""The loss of a fixed batch, and its gradient at any weights, without touching the model's own."""

import inspect
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.probe import RefusalError, build, compile_beside
from kbn.callbacks.probing.probe_data import Batch
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import seeds, training_argument
from kbn.introspection.trained_loss import trains_on_its_loss


def which_loss(
    watched: keras.Model, trained: keras.Model, who: str, *, without_fit: bool
) -> dict[str, str]:
    """Return, and warn, if the loss of `watched` is not the one that `trained` trains on.

    Args:
        watched: the model whose loss is recorded.
        trained: the model that is trained.
        who: name of the callback, for messages.
        without_fit: whether a loop of the user's own trains. What it trains on is unknown, so this
            is noted without a warning.

    Returns:
        the text for the table of settings, by the name of its row; empty if the losses are equal as
        far as the code shows.
    """
    if watched is not trained:
        text = f"the loss of the part {watched.name!r}, not the one that {trained.name!r} trains on"
    elif without_fit:
        return {"loss": f"the loss of {watched.name!r}.compute_loss; the loop may use another one"}
    elif not trains_on_its_loss(watched):
        text = (
            f"the loss of {watched.name!r}.compute_loss, which its train_step does not call as far "
            "as its code shows, so training may use another one"
        )
    else:
        return {}
    warnings.warn(f"{who} records {text}.", stacklevel=2)
    return {"loss": text}


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
        self, model: keras.Model, batch: Batch, who: str, *, eagerly: bool = False
    ) -> None:
        """Trace the model.

        Args:
            model: a model with a loss.
            batch: the batch whose loss is computed.
            who: name of the callback, for messages.
            eagerly: whether `fit` runs eagerly, although `model` alone would not.

        Raises:
            ValueError: if there is no loss or no trainable weight, or if the model does not accept
                the batch.
        """
        _check(model, batch, who)
        build(model, batch.x, eagerly=eagerly)
        self.variables = list(model.trainable_variables)
        if not self.variables:
            raise ValueError(
                f"{who} needs gradients, but the model has no trainable weights. "
                f"Received: model={model.name!r}"
            )
        self.used: list[int] = []
        self._model, self._who = model, who
        # Small gradients underflow in half precision, so use the scale of a LossScaleOptimizer.
        self._scale = _loss_scale(model)
        values = [variable.value for variable in self.variables]
        self._run = compile_beside(
            model, self._evaluated, _given(batch), values, np.float32(1), eagerly=eagerly
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
            return loss_of(self._model, batch, weights, self._who, training=True, read=read)

        found = backend.value_and_gradients(loss, values, scale)
        place_of = {id(variable): place for place, variable in enumerate(self.variables)}
        self.used = [place_of[each] for each in read if each in place_of]
        return found


class LossesOfBothModes:
    """A compiled evaluation of the loss of a batch in training mode and in inference mode."""

    def __init__(
        self, model: keras.Model, batch: Batch, who: str, *, eagerly: bool = False
    ) -> None:
        """Trace the model; arguments and errors as for `LossProbe`."""
        _check(model, batch, who)

        def losses(mapping: backend.Mapping, arrays: dict[str, Nested]) -> list[Tensor]:
            of = Batch(**arrays)
            # Without a value in its scope, Keras passes None to a weight's regularizer.
            weights = [(variable, variable.value) for variable in model.trainable_variables]
            weights += mapping
            return [loss_of(model, of, weights, who, training=each) for each in (True, False)]

        self._run = compile_beside(model, losses, _given(batch), eagerly=eagerly)

    def __call__(self) -> tuple[float, float]:
        """Return the loss in training mode and in inference mode."""
        training, inference = self._run()
        return float(training), float(inference)


class _Scope(keras.StatelessScope):
    """Records which variables are read, in order."""

    def __init__(self, mapping: backend.Mapping, read: dict[int, None]) -> None:
        super().__init__(mapping, collect_losses=True)
        self._read = read

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
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
        model: the model, called as in `fit` or `evaluate`.
        batch: tensors.
        weights: pairs of a variable and its value, for all trainable variables.
        who: name of the callback, for messages.
        training: whether the model runs in training mode.
        read: receives the ids of the variables that are read, in the order of their first read.
    """
    takes_training = "training" in inspect.signature(model.compute_loss).parameters
    mode = {"training": training} if takes_training else {}
    mapping = [*weights, *seeds(model)]
    with _Scope(mapping, {} if read is None else read), backend.undisturbed():
        y_pred = model(batch.x, **training_argument(model, training))
        _check_losses(model, who)
        loss = model.compute_loss(batch.x, batch.y, y_pred, batch.sample_weight, **mode)
        model._clear_losses()  # otherwise layers keep the losses of this trace
    return loss


def _loss_scale(model: keras.Model) -> float:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 1.0
    scaled = optimizer.scale_loss(keras.ops.ones((), "float32"))
    return float(backend.numpy_of(scaled))


def _check(model: keras.Model, batch: Batch, who: str) -> None:
    if not hasattr(model, "compute_loss"):
        raise RefusalError(
            f"{who} needs the loss, and a layer has none. Pass a model with a loss as model. "
            f"Received: model={model.name!r} of class {type(model).__name__}"
        )
    if batch.y is None and getattr(model, "loss", None) is not None:
        raise RefusalError(
            f"{who} needs the loss, so probe_data must have targets: (x, y) or "
            "(x, y, sample_weight), or batches of those. Received: probe_data with inputs only, "
            f"and a model with loss={model.loss!r}"
        )


def _check_losses(model: keras.Model, who: str) -> None:
    """Raise if the model has no loss after a call."""
    own_loss = type(model).compute_loss is not keras.Model.compute_loss
    if own_loss or getattr(model, "loss", None) is not None or _adds_loss(model):
        return
    # Keras's train_step then trains on the losses of regularizers, so they are the loss. A custom
    # train_step most likely adds a loss of its own, which cannot be computed here.
    own_step = getattr(model.train_step, "__func__", None) is not keras.Model.train_step
    if own_step or not model.losses:
        received = ", with a custom train_step and regularizers" if model.losses else ""
        raise RefusalError(
            f"{who} needs the loss, but the model {model.name!r} has none. Pass loss= to its "
            f"compile, call add_loss, or override compute_loss. Received: model.loss=None{received}"
        )


def _adds_loss(model: keras.Model) -> bool:
    """Return whether add_loss was called, other than by Keras for an activity regularizer."""
    return any(
        layer.activity_regularizer is None and layer._get_own_losses()
        for layer in model._flatten_layers()
    )


def _given(batch: Batch) -> dict[str, Nested]:
    return {name: part for name, part in batch._asdict().items() if part is not None}
