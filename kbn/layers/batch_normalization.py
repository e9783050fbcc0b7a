"""`kbn.BatchNormalization`."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from kbn import backend
from kbn.common import checks
from kbn.common.types import Config, FunctionName, Tensor
from kbn.common.warning import deprecated
from kbn.layers import normalize, options, variables
from kbn.layers.execution_path import Path, choose
from kbn.layers.running_statistics import RunningStatistics
from kbn.layers.saved_state import SavedState
from kbn.ops import renormalization
from kbn.ops.masks import is_carried, weights_for, where_kept
from kbn.ops.precision import wide, widened


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(SavedState, backend.HiddenState):
    """Batch normalization with the moving statistics that Ioffe & Szegedy (2015) define.

    This is a `keras.layers.BatchNormalization` with the same arguments, defaults and variables,
    and more options. A table in the README lists the differences. In a batch, m is the number of
    values per channel, `batch_mean` is their mean, and `batch_variance` is their biased variance
    Σ(x − batch_mean)²/m.

    **In training** (`training=True`), the batch is normalized with its own moments (Algorithm 1):

        y = gamma · (x − batch_mean) / √(batch_variance + epsilon) + beta

    and the moving statistics are updated (§3.1; Algorithm 2, steps 8 to 10):

        moving_mean     ← moving_mean · momentum     + batch_mean · (1 − momentum)
        moving_variance ← moving_variance · momentum + m/(m−1) · batch_variance · (1 − momentum)

    With `unbiased_variance=False`, the factor m/(m−1) is left out, as in Keras. With
    `momentum=None`, each moving statistic is the average over all batches so far, weighted by m.

    **In inference** (`training=False`, or a frozen layer), the moving statistics normalize:

        y = gamma · (x − moving_mean) / √(moving_variance + epsilon) + beta

    **Skipped updates.** A channel with a single value (m = 1) updates the mean but not the
    variance. A channel that is empty, fully masked, or contains inf or NaN updates neither.
    `skipped_updates` counts the skipped updates of the variance per channel.

    **On several replicas** with `synchronized=True`, every replica normalizes with the moments of
    the whole batch, merged by count. Otherwise each replica normalizes with its own moments, as in
    Keras. The moving statistics are then updated with the mean over replicas, weighted by count,
    and are the same on every replica. Both cases take one collective per forward pass in training.
    Replicas are those of `tf.distribute`, of `torch.distributed`, and of `jax.shard_map`. Under
    `keras.distribution` on JAX, every program sees the whole batch, so the moments are always those
    of the whole batch.

    **A frozen layer** (`trainable = False`) runs in inference mode: `gamma`, `beta` and the moving
    statistics do not change, even with `training=True`. Freezing takes effect at once in direct
    calls of the layer. In a model that was already trained, it takes effect only after `compile`
    is called again. To fine-tune, set `base.trainable = False`, or only that of the normalization
    layers, and then compile. Do not rely on `base(inputs, training=False)` in a functional model:
    Keras 3.15 overrides it with the `training=True` of `fit`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> import kbn
        >>> layer = kbn.BatchNormalization(momentum=0.9)
        >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(8, 4)).astype("float32")
        >>> y = keras.ops.convert_to_numpy(layer(x, training=True))
        >>> m, batch_mean, batch_variance = len(x), x.mean(0), x.var(0)
        >>> bool(np.allclose(y, (x - batch_mean) / np.sqrt(batch_variance + 1e-3), atol=1e-5))
        True
        >>> bool(np.allclose(layer.moving_mean, 0.0 * 0.9 + batch_mean * (1 - 0.9)))
        True
        >>> moved = 1.0 * 0.9 + m / (m - 1) * batch_variance * (1 - 0.9)
        >>> bool(np.allclose(layer.moving_variance, moved))
        True

    Args:
        axis: the channel axis: an integer, or a list of one integer as in old saved models.
        momentum: weight of the old value, in [0, 1]. (torch's `momentum` is 1 minus this number.)
            None takes the average over all batches, weighted by count, and adds two (C,) variables,
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
        renorm: whether to use batch renormalization (Ioffe 2017): in training, x̂·r + d replaces x̂.
            r = σ_B/σ and d = (μ_B − μ)/σ are constants for gradients. μ and σ are the variables
            `renorm_mean` and `renorm_stddev`, averages of μ_B and σ_B = √(batch_variance +
            epsilon). `moving_stddev` averages √(v + epsilon), where v is the batch variance with
            the factor m/(m−1) if `unbiased_variance`. `moving_variance` is its square − epsilon.
            The variables and their order are those of Keras.
        renorm_clipping: with `renorm`, a dict of the limits "rmin" ≤ r ≤ "rmax" and |d| ≤ "dmax".
            A missing limit does not clip. A limit is a number or a `LearningRateSchedule` over the
            number of batches that updated the statistics (the paper starts with rmax = 1,
            dmax = 0). A schedule adds a variable, `renorm_step`.
        renorm_momentum: with `renorm`, the weight of the old value in μ and σ, in [0, 1].
        synchronized: whether replicas share the moments of the whole batch.
        unbiased_variance: whether the moving variance averages m/(m−1)·σ_B² (the paper, torch)
            or σ_B² (Keras). Training batches are normalized with σ_B² in both cases.
        zero_debias: whether to remove the bias of the moving statistics towards their initial
            values. After t updates they are hidden/(1 − momentumᵗ), where `hidden` starts at zero
            (Kingma & Ba 2015, §3). This adds two (C,) variables, `mean_debias` and
            `variance_debias`, with the value 1 − momentumᵗ. If a `.keras` or `.weights.h5` file or
            `set_weights` does not include them, they become 1, and the loaded statistics stay. If
            you assign the statistics in another way, set both to 1. (Keras does not load `.h5`
            weights of the old format with a different number of variables.)
        virtual_batch_size: samples per ghost ("virtual") batch (Hoffer et al. 2017), or None. In
            training, consecutive samples are normalized in ghost batches of this size; the last
            one may be smaller. They update the statistics one after the other, as small batches do.
        fused: whether to use a fused kernel: "auto", True or False. On TensorFlow this is the op
            `FusedBatchNormV3`. On PyTorch it is kbn's own kernel, on CPUs. JAX has none. "auto"
            uses it for float32, float16 and bfloat16 in inference and training, except with
            masks, `renorm`, `virtual_batch_size` or statistics shared by replicas, and inside XLA,
            where it computes wrong variances. True raises an error in these cases. False never
            uses it. In inference without a mask, inputs of another rank than 4 are an exception:
            "auto" computes x·scale + bias, as Keras's layer does, because converters (TFLite, ONNX)
            fold nothing else. It loses digits if the mean is large (an error of 1e-3 at mean/std =
            1e4). True and False subtract the mean first, and lose none. `execution_path` returns
            the path of a call. On CPUs, kbn's own kernels run TensorFlow's op if they were compiled
            (see the README).
        **kwargs: `name`, `dtype`, `trainable` and other arguments of Keras layers.

    Call arguments:
        inputs: tensor of rank ≥ 1 with C channels along `axis`; integers are cast to float32.
        training: whether to normalize with the batch's moments and update the moving statistics.
        mask: the values to use. The others do not affect statistics or gradients, even if they are
            NaN, and their output is `beta`. A mask that `inputs` carry, as from `Masking` or
            `Embedding`, has their leading axes: (B,), (B, T), … So has a mask of the same shape in
            the argument. Another mask in the argument has the rank of `inputs` and broadcasts to
            them, or it has fewer axes. These are the leading axes of `inputs` without the channel
            axis, or, if it does not fit those, with the channel axis.
            Its dtype is bool, integer or float. Floats are weights, clipped to [0, 1]. With
            weights, m is (Σw)²/Σw², for which m/(m−1)·σ_B² is unbiased (Kish 1965).

    Returns:
        A tensor of the shape of `inputs`, in the policy's compute dtype. Statistics are computed
        and kept in at least float32 under every policy.

    Raises:
        TypeError, ValueError: if an argument is not allowed; the message says what was received.
        ValueError: if `fused=True` and the fused kernel does not support a call; the message says
            why.

    Reference:
        Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167
        Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized
        Models", 2017, https://arxiv.org/abs/1702.03275
        Hoffer, Hubara & Soudry, "Train longer, generalize better", 2017,
        https://arxiv.org/abs/1705.08741
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: FunctionName = "zeros",
        gamma_initializer: FunctionName = "ones",
        moving_mean_initializer: FunctionName = "zeros",
        moving_variance_initializer: FunctionName = "ones",
        beta_regularizer: FunctionName = None,
        gamma_regularizer: FunctionName = None,
        beta_constraint: FunctionName = None,
        gamma_constraint: FunctionName = None,
        renorm: bool = False,
        renorm_clipping: renormalization.Clipping | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        unbiased_variance: bool = True,
        zero_debias: bool = False,
        virtual_batch_size: int | None = None,
        fused: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        functions = options.check_functions(
            {
                "beta_initializer": beta_initializer,
                "gamma_initializer": gamma_initializer,
                "moving_mean_initializer": moving_mean_initializer,
                "moving_variance_initializer": moving_variance_initializer,
                "beta_regularizer": beta_regularizer,
                "gamma_regularizer": gamma_regularizer,
                "beta_constraint": beta_constraint,
                "gamma_constraint": gamma_constraint,
            }
        )
        if momentum is not None:
            momentum = checks.number("momentum", momentum, "in [0, 1] or None", low=0, high=1)
        super().__init__(
            axis=checks.single_axis(axis),
            momentum=0.0 if momentum is None else momentum,
            epsilon=checks.number("epsilon", epsilon, "positive", low=0, open_low=True),
            center=checks.boolean("center", center),
            scale=checks.boolean("scale", scale),
            renorm=checks.boolean("renorm", renorm),
            renorm_momentum=checks.number(
                "renorm_momentum", renorm_momentum, "in [0, 1]", low=0, high=1
            ),
            **functions,
            **kwargs,
        )
        # Not an argument of Keras's constructor, which accepts it on TensorFlow alone.
        self.synchronized = checks.boolean("synchronized", synchronized)
        self.momentum = momentum
        self.renorm_clipping = renormalization.checked_clipping(renorm, renorm_clipping)
        self.unbiased_variance = checks.boolean("unbiased_variance", unbiased_variance)
        self.zero_debias = options.checked_zero_debias(zero_debias, momentum)
        self.virtual_batch_size = options.checked_virtual_batch_size(
            virtual_batch_size, synchronized
        )
        self.fused = options.checked_fused(
            fused, renorm=renorm, synchronized=synchronized, virtual=virtual_batch_size
        )
        self._hidden: SimpleNamespace | None = None  # set by `build`
        self._own_names: list[str] = []

    @property
    def skipped_updates(self) -> np.ndarray:
        """(C,) int64 array: number of batches that could not update the moving variance.

        Per channel, it counts the batches that are empty, fully masked, contain inf or NaN, or have
        a single value, since the layer was built. Each ghost batch and each replica's batch counts.
        It is not a weight, so it is not saved. On JAX it is one of `variables`, which training
        returns as its state. Elsewhere it does not change inside a `keras.StatelessScope`.
        """
        return backend.numpy_of(self._skipped_counter()).astype(np.int64)

    @property
    def refused_updates(self) -> np.ndarray:
        """Deprecated: the former name of `skipped_updates`."""
        deprecated("BatchNormalization.refused_updates", "skipped_updates")
        return self.skipped_updates

    def __dir__(self) -> list[str]:
        # Keras reads every listed attribute when it saves, and must not see the deprecated one.
        return [name for name in super().__dir__() if name != "refused_updates"]

    def add_weight(
        self, *args: Any, trainable: bool = True, dtype: str | None = None, **kwargs: Any
    ) -> keras.Variable:
        """Add a variable as Keras does, but keep statistics in at least float32."""
        dtype = dtype or self.variable_dtype
        if not trainable and keras.backend.is_float_dtype(dtype):
            dtype = wide(dtype)
        return super().add_weight(*args, trainable=trainable, dtype=dtype, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the variables for inputs of `input_shape`, whose channel count must be known."""
        options.check_input_shape(self, input_shape)
        super().build(input_shape)
        self.channel_axis = self.axis % len(input_shape)
        for name, shape in variables.own_shapes(self).items():
            self._add_state(name, shape)
        # Not tracked by Keras, so that the layer has the same weights as Keras's layer.
        self._hidden = SimpleNamespace(skipped=_counter("skipped_updates", self.moving_mean.shape))

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`. In training, also update the moving statistics."""
        x = self._floating(inputs)
        path = self.execution_path(x, training=training, mask=mask)
        weights = None
        if mask is not None:
            carried = is_carried(mask, inputs)
            x = widened(x)
            weights = weights_for(mask, x, self.axis, leading=carried)
            x = where_kept(weights, x, ops.zeros_like(x))
        normalized = normalize.chosen(training=bool(training and self.trainable), path=path)(
            self, x, weights
        )
        return ops.cast(normalized, self.compute_dtype)

    def execution_path(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Path:
        """Return the path that a call with these arguments takes, and why.

        The fused kernel is used if its results are right: for float32, float16 and bfloat16
        outside XLA, without masks, ghost batches, renorm or statistics shared by replicas. In
        inference, inputs of another rank than 4 take x·scale + bias instead, which converters fold.

        Returns:
            `Path(fused, reason)`: whether the fused kernel is used, and why, as a readable clause.

        Raises:
            ValueError: if `fused=True` and the fused kernel does not support the call.
        """
        # Keras casts the inputs and finds the mask of an earlier layer before `call`; do the same.
        if not hasattr(inputs, "dtype"):
            inputs = np.asarray(inputs)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if not keras.backend.is_float_dtype(dtype):
            dtype = "float32"
        elif self.autocast:
            dtype = self.compute_dtype
        masked = mask is not None or backend.carried_mask(inputs) is not None
        training = bool(training and self.trainable)
        return choose(self, dtype, len(inputs.shape), training=training, masked=masked)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return `input_shape`."""
        options.check_input_shape(self, input_shape)
        return input_shape

    def get_config(self) -> Config:
        """Return the config from which `from_config` creates an equal layer."""
        return {
            **super().get_config(),
            "renorm_clipping": renormalization.config_of(self.renorm_clipping),
            "unbiased_variance": self.unbiased_variance,
            "zero_debias": self.zero_debias,
            "virtual_batch_size": self.virtual_batch_size,
            "fused": self.fused,
        }

    def running_statistics(self) -> RunningStatistics:
        """Return the moving statistics with their update rules, by the current options."""
        return variables.running_statistics(self, self._skipped_counter())

    def _floating(self, x: Tensor) -> Tensor:
        dtype = keras.backend.standardize_dtype(x.dtype)
        if not keras.backend.is_float_dtype(dtype):
            return ops.cast(x, "float32")
        # Keras casts the inputs of a call, but not those of `stateless_call`.
        widen = self.autocast and self.compute_dtype == "float64" != dtype
        return ops.cast(x, "float64") if widen else x

    def _skipped_counter(self) -> keras.Variable:
        if self._hidden is None:
            raise ValueError(
                f"skipped_updates needs a built layer: call it first. Received: layer={self.name!r}"
            )
        return self._hidden.skipped

    def _hidden_variables(self) -> dict[str, keras.Variable]:
        return {} if self._hidden is None else {"skipped_updates": self._hidden.skipped}


def _counter(name: str, shape: tuple[int, ...]) -> keras.Variable:
    return keras.Variable(
        initializer="zeros", shape=tuple(shape), dtype=backend.COUNTER, trainable=False, name=name
    )
