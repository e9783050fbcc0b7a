"""The loss of a fixed batch, outside of training."""

import inspect

import keras

from kbn import backend
from kbn.callbacks.probing.compiled_runs import RefusalError
from kbn.callbacks.probing.probe_data import Batch
from kbn.common.types import Nested, Tensor
from kbn.common.warning import warn
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
    warn(f"{who} records {text}.")
    return {"loss": text}


class LossesOfBothModes:
    """The losses of a batch in training mode and in inference mode, beside a run in training mode.

    Attributes:
        arrays: the batch, as NumPy arrays by name.
    """

    def __init__(
        self, model: keras.Model, batch: Batch, who: str, *, elsewhere: bool = False
    ) -> None:
        """Check that there is a loss; arguments and errors as for `LossProbe`."""
        check_loss(model, batch, who)
        self.arrays = given(batch)
        self._loss = LossOf(model, who, elsewhere=elsewhere)

    def __call__(
        self, mapping: backend.Mapping, arrays: dict[str, Nested], outputs: Nested
    ) -> list[Tensor]:
        """Return the loss of `outputs`, those in training mode, and the loss in inference mode.

        The scope of the run must collect losses, and have a value for each trainable variable.
        """
        batch = Batch(**arrays)
        training = self._loss.of_outputs(batch, outputs, training=True)
        return [training, self._loss(batch, mapping, training=False)]


class _Scope(keras.StatelessScope):
    """Records which variables are read, in order."""

    def __init__(self, mapping: backend.Mapping, read: dict[int, None]) -> None:
        super().__init__(mapping, collect_losses=True)
        self._read = read

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        """Return the value of `variable` in this scope."""
        self._read.setdefault(id(variable))
        return super().get_current_value(variable)


class LossOf:
    """The loss of a model, as `compute_loss` returns it, for use inside a trace."""

    def __init__(self, model: keras.Model, who: str, *, elsewhere: bool) -> None:
        """Store the arguments.

        Args:
            model: the model, called as in `fit` or `evaluate`.
            who: name of the callback, for messages.
            elsewhere: whether a loop or another model trains `model`.
        """
        self._model, self._who, self._elsewhere = model, who, elsewhere
        self._takes_training = "training" in inspect.signature(model.compute_loss).parameters

    def __call__(
        self,
        batch: Batch,
        weights: backend.Mapping,
        *,
        training: bool,
        read: dict[int, None] | None = None,
    ) -> Tensor:
        """Return the loss of `batch`, a scalar.

        Args:
            batch: tensors.
            weights: pairs of a variable and its value, for all trainable variables. Without a value
                in its scope, Keras passes None to a weight's regularizer.
            training: whether the model runs in training mode.
            read: receives the ids of the variables that are read, in the order of their first read.
        """
        mapping = [*weights, *seeds(self._model)]
        with _Scope(mapping, {} if read is None else read), backend.undisturbed():
            outputs = self._model(batch.x, **training_argument(self._model, training))
            return self.of_outputs(batch, outputs, training=training)

    def of_outputs(self, batch: Batch, outputs: Nested, *, training: bool) -> Tensor:
        """Return the loss of the model's outputs, inside the scope of the call that computed them.

        Raises:
            ValueError: if there is no loss, or it is not a scalar.
        """
        self._check_that_there_is_one()
        mode = {"training": training} if self._takes_training else {}
        found = self._model.compute_loss(batch.x, batch.y, outputs, batch.sample_weight, **mode)
        self._model._clear_losses()  # otherwise layers keep the losses of this trace
        loss = keras.ops.convert_to_tensor(found)
        if len(loss.shape):
            raise ValueError(
                f"{self._who} needs a scalar loss. Choose a reduction such as "
                f"'sum_over_batch_size'. Received: a loss of shape {tuple(loss.shape)} from "
                f"{self._model.name!r}.compute_loss"
            )
        return loss

    def _check_that_there_is_one(self) -> None:
        """Raise if the model has no loss after a call."""
        model = self._model
        own_loss = type(model).compute_loss is not keras.Model.compute_loss
        if own_loss or getattr(model, "loss", None) is not None or _adds_loss(model):
            return
        # Keras's train_step then trains on the losses of regularizers, so they are the loss. Others
        # most likely train on more than those, and that cannot be computed here.
        own_step = getattr(model.train_step, "__func__", None) is not keras.Model.train_step
        if self._elsewhere or own_step or not model.losses:
            trained_by = "a loop or another model" if self._elsewhere else "a custom train_step"
            received = f", with regularizers and trained by {trained_by}" if model.losses else ""
            raise RefusalError(
                f"{self._who} needs the loss, but the model {model.name!r} has none. Pass loss= to "
                "its compile, call add_loss, or override compute_loss. Received: model.loss=None"
                f"{received}"
            )


def check_loss(model: keras.Model, batch: Batch, who: str) -> None:
    """Raise RefusalError if a loss needs more than `model` and `batch` have."""
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


def _adds_loss(model: keras.Model) -> bool:
    """Return whether add_loss was called, other than by Keras for an activity regularizer."""
    return any(
        layer.activity_regularizer is None and layer._get_own_losses()
        for layer in model._flatten_layers()
    )


def given(batch: Batch) -> dict[str, Nested]:
    """Return the parts of `batch` that there are, by name."""
    return {name: part for name, part in batch._asdict().items() if part is not None}
