"""The steps that the optimizer of `fit` has taken, and whether training uses it at all."""

from typing import TypeAlias

from kbn import backend
from kbn.callbacks.recording.interface import RecordingCallback

State: TypeAlias = tuple[float, ...]


class OptimizerSteps:
    """The count of the model's optimizer, if it has one."""

    def __init__(self, callback: RecordingCallback) -> None:
        self._callback = callback
        self._optimizer = getattr(callback.model, "optimizer", None)
        self._begun = self._state()

    def __call__(self) -> int:
        """Return the number of steps, 0 without an optimizer."""
        self.synchronize()
        return 0 if self._optimizer is None else backend.iterations(self._optimizer)

    def synchronize(self) -> None:
        """Write the training state into the variables. JAX keeps it elsewhere during `fit`."""
        _ = self._callback.model  # reading it makes Keras do this

    def begin(self) -> None:
        """Note the state of the optimizer before the first batch."""
        self._begun = self._state()

    def is_untouched(self) -> bool:
        """Return whether training has not used the optimizer since `begin`.

        A step that accumulates gradients, or that a LossScaleOptimizer skips, uses it.
        """
        return self._state() == self._begun

    def batches_of_a_step(self) -> int:
        """Return how many batches one step accumulates."""
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        return getattr(inner, "gradient_accumulation_steps", None) or 1

    def _state(self) -> State:
        """Return the counters of the optimizer, and the loss scale if it has one."""
        if self._optimizer is None:
            return ()
        self.synchronize()
        # A callback may change the learning rate of an optimizer that training does not use.
        return tuple(
            float(backend.numpy_of(variable))
            for variable in self._optimizer.variables
            if len(variable.shape) == 0 and variable.name != "learning_rate"
        )
