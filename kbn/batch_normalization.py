"""The layer: options, variables, call, config; the maths is in `moments`, `moving_average`."""

from typing import Any

import keras
from keras import ops

from kbn import checks, moving_average
from kbn.moments import Moments, batch_moments

Tensor = Any


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the moving statistics that Ioffe & Szegedy (2015) define.

    A `keras.layers.BatchNormalization` with the same arguments, defaults and variables, and two
    options more; the README's table says where it differs. Let m be the number of values per
    channel in a batch, `batch_mean` their mean and `batch_variance` their biased variance
    (Σ(x − batch_mean)²/m).

    **In training** (`training=True`) the batch is normalized with its own moments (Algorithm 1):

        y = gamma · (x − batch_mean) / √(batch_variance + epsilon) + beta

    and the moving statistics move (§3.1; Algorithm 2, steps 8 to 10):

        moving_mean     ← moving_mean · momentum     + batch_mean · (1 − momentum)
        moving_variance ← moving_variance · momentum + m/(m−1) · batch_variance · (1 − momentum)

    With `unbiased_variance=False` the factor m/(m−1) is left out, as Keras does. With
    `momentum=None` each moving statistic is the average over all batches seen, each weighted by m.

    **In inference** (`training=False`, or a frozen layer) the moving statistics normalize:

        y = gamma · (x − moving_mean) / √(moving_variance + epsilon) + beta

    A batch moves only what it tells: a single value per channel (m = 1) moves the mean and leaves
    the variance; an empty, wholly masked, inf or NaN channel moves neither.

    Example:
        >>> import numpy as np
        >>> import kbn
        >>> layer = kbn.BatchNormalization(momentum=0.9)
        >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(8, 4)).astype("float32")
        >>> y = layer(x, training=True)
        >>> m, batch_mean, batch_variance = len(x), x.mean(0), x.var(0)
        >>> bool(np.allclose(y, (x - batch_mean) / np.sqrt(batch_variance + 1e-3), atol=1e-5))
        True
        >>> bool(np.allclose(layer.moving_mean, 0.0 * 0.9 + batch_mean * (1 - 0.9)))
        True
        >>> moved = 1.0 * 0.9 + m / (m - 1) * batch_variance * (1 - 0.9)
        >>> bool(np.allclose(layer.moving_variance, moved))
        True

    Args:
        axis: the channel axis, an integer (a list of one integer, as in old saved models, too).
        momentum: weight of the old value, in [0, 1] (torch's `momentum` is 1 − this), or None
            for the count-weighted average of all batches, which adds two (C,) variables,
            `mean_count` and `variance_count`.
        epsilon: positive number added to the variance.
        center: whether to add `beta`.
        scale: whether to multiply by `gamma`.
        beta_initializer: initializer of `beta`, (C,).
        gamma_initializer: initializer of `gamma`, (C,).
        moving_mean_initializer: initializer of `moving_mean`, (C,).
        moving_variance_initializer: initializer of `moving_variance`, (C,).
        beta_regularizer: regularizer of `beta`.
        gamma_regularizer: regularizer of `gamma`.
        beta_constraint: constraint on `beta`.
        gamma_constraint: constraint on `gamma`.
        renorm: batch renormalization; this version has none and raises.
        renorm_clipping: belongs to `renorm`.
        renorm_momentum: belongs to `renorm`; has no effect without it.
        synchronized: statistics across replicas; this version has none and raises.
        unbiased_variance: whether the moving variance estimates m/(m−1)·σ_B² (the paper, torch)
            or σ_B² (Keras). It never touches what normalizes a training batch.
        **kwargs: `name`, `dtype`, `trainable` and what else a Keras layer takes.

    Call arguments:
        inputs: tensor of rank ≥ 1 with C channels along `axis`; integers are cast to float32.
        training: whether to normalize with the batch and move the statistics.
        mask: boolean tensor of the shape of `inputs` without its channel axis, or one
            broadcastable to that; False positions take no part in statistics or gradients,
            not even as NaN, and their output is `beta`.

    Returns:
        A tensor of the shape of `inputs`, in the policy's compute dtype. Statistics are computed
        and kept in float32 at least, whatever the policy.

    Raises:
        TypeError, ValueError: for arguments outside what is said here, with what was received.

    Reference:
        Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        unbiased_variance: bool = True,
        **kwargs: Any,
    ) -> None:
        _refuse_unsupported(renorm, renorm_clipping, synchronized)
        checks.functions(
            keras.initializers.get,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
        )
        regularizers = {
            "beta_regularizer": beta_regularizer,
            "gamma_regularizer": gamma_regularizer,
        }
        checks.functions(keras.regularizers.get, optional=True, **regularizers)
        constraints = {"beta_constraint": beta_constraint, "gamma_constraint": gamma_constraint}
        checks.functions(keras.constraints.get, optional=True, **constraints)
        if momentum is not None:
            momentum = checks.number("momentum", momentum, "in [0, 1] or None", low=0, high=1)
        super().__init__(
            axis=checks.single_axis(axis),
            momentum=0.0 if momentum is None else momentum,
            epsilon=checks.number("epsilon", epsilon, "positive", low=0, open_low=True),
            center=checks.boolean("center", center),
            scale=checks.boolean("scale", scale),
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            renorm_momentum=checks.number(
                "renorm_momentum", renorm_momentum, "in [0, 1]", low=0, high=1
            ),
            **kwargs,
        )
        self.momentum = momentum
        self.unbiased_variance = checks.boolean("unbiased_variance", unbiased_variance)
        self.mean_count = None
        self.variance_count = None

    def add_weight(
        self, *args: Any, trainable: bool = True, dtype: Any = None, **kwargs: Any
    ) -> Any:
        """Add a variable as Keras does, but statistics never below float32."""
        if not trainable:
            dtype = keras.backend.result_type(dtype or self.variable_dtype, "float32")
        return super().add_weight(*args, trainable=trainable, dtype=dtype, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the variables for inputs of `input_shape`, whose channel count must be known."""
        self._check_input_shape(input_shape)
        super().build(input_shape)
        if self.momentum is None:
            shape = self.moving_mean.shape
            self.mean_count = self._add_count("mean_count", shape)
            self.variance_count = self._add_count("variance_count", shape)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`; in training, move the statistics too."""
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        where = self._positions(mask, x)
        if training and self.trainable:
            batch = batch_moments(x, self._reduction_axes, where)
            self._move_statistics(batch)
            outputs = self._normalize(x, batch.mean, batch.variance, where)
        else:
            outputs = self._normalize(x, self.moving_mean, self.moving_variance, where)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return `input_shape`."""
        self._check_input_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs to make this layer again."""
        return {**super().get_config(), "unbiased_variance": self.unbiased_variance}

    def _add_count(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_weight(
            shape=shape, name=name, initializer="zeros", trainable=False, autocast=False
        )

    def _check_input_shape(self, input_shape: tuple[int | None, ...]) -> None:
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"axis must lie in [{-rank}, {rank - 1}] for an input of rank {rank}. "
                f"Received: axis={self.axis}, input_shape={tuple(input_shape)}"
            )
        if input_shape[self.axis] is None:
            raise ValueError(
                "The channel axis must have a known size. "
                f"Received: axis={self.axis}, input_shape={tuple(input_shape)}"
            )

    def _positions(self, mask: Tensor | None, x: Tensor) -> Tensor | None:
        """Return `mask` with the channel axis put in, so that it broadcasts to `x`."""
        if mask is None:
            return None
        mask = ops.convert_to_tensor(mask, dtype="bool")
        wanted = [x.shape[axis] for axis in self._reduction_axes]
        fits = len(mask.shape) == len(wanted) and all(
            have in (None, 1) or want in (None, have)
            for have, want in zip(mask.shape, wanted, strict=True)
        )
        if not fits:
            raise ValueError(
                "The mask must have the input's shape without its channel axis. Received: "
                f"mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}, axis={self.axis}"
            )
        return ops.expand_dims(mask, self.axis % len(x.shape))

    def _move_statistics(self, batch: Moments) -> None:
        variance = (
            moving_average.unbiased_variance(batch) if self.unbiased_variance else batch.variance
        )
        count = batch.count
        tells_mean = moving_average.tells_mean(batch)
        tells_variance = moving_average.tells_variance(batch)
        self._move(self.moving_mean, batch.mean, tells_mean, count, self.mean_count)
        self._move(self.moving_variance, variance, tells_variance, count, self.variance_count)

    def _move(self, average: Any, value: Tensor, tells: Tensor, count: Tensor, seen: Any) -> None:
        """Move `average` towards `value` in the channels about which the batch tells."""
        # The variable's dtype may be wider or narrower than the inputs' (float64 data, say).
        value, count = ops.cast(value, average.dtype), ops.cast(count, average.dtype)
        if self.momentum is None:
            total = seen + ops.where(tells, count, ops.zeros_like(count))
            seen.assign(total)
            moved = moving_average.cumulative(average.value, value, count, total)
        else:
            moved = moving_average.exponential(average.value, value, self.momentum)
        average.assign(ops.where(tells, moved, average.value))

    def _normalize(self, x: Tensor, mean: Tensor, variance: Tensor, where: Tensor | None) -> Tensor:
        """Return gamma · (x − mean) / √(variance + epsilon) + beta; beta where masked."""
        scale = ops.rsqrt(ops.cast(variance, x.dtype) + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, x.dtype)
        # Subtract first: x·scale + (beta − mean·scale) cancels badly at a large mean.
        deviation = x - self._broadcast(mean, x)
        if where is not None:
            deviation = ops.where(where, deviation, ops.zeros_like(deviation))
        outputs = deviation * self._broadcast(scale, x)
        return outputs + self._broadcast(self.beta, x) if self.center else outputs

    def _broadcast(self, per_channel: Tensor, x: Tensor) -> Tensor:
        """Shape a (C,) tensor so that it lies along the channel axis of `x`."""
        shape = [1] * len(x.shape)
        shape[self.axis] = -1
        return ops.reshape(ops.cast(per_channel, x.dtype), shape)


def _refuse_unsupported(renorm: Any, renorm_clipping: Any, synchronized: Any) -> None:
    for name, value in (("renorm", renorm), ("synchronized", synchronized)):
        if checks.boolean(name, value):
            raise NotImplementedError(
                f"kbn.BatchNormalization does not support {name}=True yet; "
                f"keras.layers.BatchNormalization does. Received: {name}=True"
            )
    if renorm_clipping is not None:
        raise ValueError(
            "renorm_clipping belongs to renorm=True. "
            f"Received: renorm=False, renorm_clipping={renorm_clipping!r}"
        )
