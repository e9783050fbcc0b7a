"""The layer: options, variables, call, config.

The maths is in `moments`, `moving_average` and `renormalization`, the state in
`moving_statistics`.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from kbn.backend.tensorflow import fused_kernel, replicas
from kbn.common import checks
from kbn.layers import saved_state as checkpoints
from kbn.layers.execution_path import Path, choose
from kbn.layers.options import checked_fused, checked_virtual_batch_size, checked_zero_debias
from kbn.layers.running_statistics import Average, RenormRunningStatistics, RunningStatistics
from kbn.ops import renormalization, virtual_batches
from kbn.ops.channel_sums import affine
from kbn.ops.masks import weights_for, where_kept
from kbn.ops.moments import Moments, center
from kbn.ops.renormalization import Correction

Tensor = Any


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the moving statistics that Ioffe & Szegedy (2015) define.

    A `keras.layers.BatchNormalization` with the same arguments, defaults and variables, and more
    options; the README's table says where it differs. Let m be the number of values per channel
    in a batch, `batch_mean` their mean and `batch_variance` their biased variance
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

    **A batch moves only what it tells**, channel by channel: a single value (m = 1) moves the
    mean and leaves the variance; an empty, wholly masked, inf or NaN channel moves neither.
    `refused_updates` counts.

    **Over replicas** (`tf.distribute`), `synchronized=True` normalizes with the moments of the
    whole batch, merged by count. Otherwise each replica normalizes with its own, as in Keras,
    and the moving statistics follow the mean over replicas, each weighted by its count; every
    replica holds the same ones. Either takes one collective per forward pass in training.

    **Frozen** (`trainable = False`) means inference mode: `gamma`, `beta` and the moving
    statistics stay, also when called with `training=True`. Called directly, the layer obeys at
    once; a model that was trained before keeps what it was compiled with until `compile` is
    called again. To fine-tune, set `base.trainable = False`, or that of the normalization
    layers alone, and then compile. Do not rely on `base(inputs, training=False)` in a functional
    model: Keras 3.15 overrides it with the `training=True` of `fit`.

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
        renorm: batch renormalization (Ioffe 2017): in training, x̂·r + d replaces x̂, with
            r = σ_B/σ and d = (μ_B − μ)/σ held constant in gradients. μ and σ are the variables
            `renorm_mean` and `renorm_stddev`, averages of μ_B and σ_B = √(batch_variance +
            epsilon). `moving_stddev` averages √(kept variance + epsilon), and `moving_variance`
            is its square − epsilon. Variables and their order are Keras's.
        renorm_clipping: with `renorm`, the limits "rmin" ≤ r ≤ "rmax" and |d| ≤ "dmax"; one that
            is missing does not clip. A number, or a `LearningRateSchedule` of the number of
            batches that moved the statistics so far (the paper starts from rmax = 1, dmax = 0),
            which adds a variable, `renorm_step`.
        renorm_momentum: with `renorm`, the weight of the old value in μ and σ, in [0, 1].
        synchronized: whether replicas share the moments of the whole batch.
        unbiased_variance: whether the moving variance estimates m/(m−1)·σ_B² (the paper, torch)
            or σ_B² (Keras). It never touches what normalizes a training batch.
        zero_debias: whether the moving statistics are free of the bias towards their initial
            values: hidden/(1 − momentumᵗ) after t updates, where `hidden` starts at zero (Kingma &
            Ba 2015, §3). Adds two (C,) variables, `mean_debias` and `variance_debias`, which hold
            1 − momentumᵗ. Statistics loaded from a `.keras` or `.weights.h5` file or by
            `set_weights` without them count as settled; where they are assigned otherwise, set
            these to 1. (Keras refuses old-format `.h5` weights whose number differs.)
        virtual_batch_size: samples per virtual ("ghost") batch (Hoffer et al. 2017), or None: in
            training, consecutive samples are normalized in batches of that size, the last one
            of what remains, and move the statistics one after the other, as small batches would.
        fused: "auto", True or False: whether TensorFlow's fused kernel, `FusedBatchNormV3`, does
            the work. "auto" takes it for float32, float16 and bfloat16, in inference and in
            training, except for masks, `renorm`, `virtual_batch_size`, statistics shared by
            replicas, and inside XLA, where it computes wrong variances. True raises there
            instead; False never takes it. `execution_path` says what a call would do. On CPUs
            the op runs on kernels of kbn's own where they were compiled (the README says more).
        **kwargs: `name`, `dtype`, `trainable` and what else a Keras layer takes.

    Call arguments:
        inputs: tensor of rank ≥ 1 with C channels along `axis`; integers are cast to float32.
        training: whether to normalize with the batch and move the statistics.
        mask: which values take part; the others take none in statistics or gradients, not even
            as NaN, and their output is `beta`. A tensor of the rank of `inputs` that broadcasts to
            them, or a shorter one along their axes other than the channel axis, from the first:
            (B,), (B, T), … Booleans and integers; or float weights, clipped to [0, 1], where the
            m of a channel becomes (Σw)²/Σw², for which m/(m−1)·σ_B² is unbiased (Kish 1965).

    Returns:
        A tensor of the shape of `inputs`, in the policy's compute dtype. Statistics are computed
        and kept in float32 at least, whatever the policy.

    Raises:
        TypeError, ValueError: for arguments outside what is said here, with what was received; for
            calls of a layer with `fused=True` that the fused kernel cannot do, with the reason.

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
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, Any] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        unbiased_variance: bool = True,
        zero_debias: bool = False,
        virtual_batch_size: int | None = None,
        fused: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        initializers = {
            "beta_initializer": beta_initializer,
            "gamma_initializer": gamma_initializer,
            "moving_mean_initializer": moving_mean_initializer,
            "moving_variance_initializer": moving_variance_initializer,
        }
        checks.functions(keras.initializers.get, **initializers)
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
            renorm=checks.boolean("renorm", renorm),
            renorm_momentum=checks.number(
                "renorm_momentum", renorm_momentum, "in [0, 1]", low=0, high=1
            ),
            synchronized=checks.boolean("synchronized", synchronized),
            **initializers,
            **regularizers,
            **constraints,
            **kwargs,
        )
        self.momentum = momentum
        self.renorm_clipping = renormalization.checked_clipping(renorm, renorm_clipping)
        self.unbiased_variance = checks.boolean("unbiased_variance", unbiased_variance)
        self.zero_debias = checked_zero_debias(zero_debias, momentum)
        self.virtual_batch_size = checked_virtual_batch_size(virtual_batch_size, synchronized)
        self.fused = checked_fused(
            fused, renorm=renorm, synchronized=synchronized, virtual=virtual_batch_size
        )
        self._hidden: Any = None  # made by `build`
        self._own_names: list[str] = []

    @property
    def refused_updates(self) -> np.ndarray:
        """(C,) int64 array: batches since this layer was built that could not move its variance.

        Empty, wholly masked, single-value, inf or NaN, counted per channel, virtual batches and
        those of replicas one by one. No weight: not saved, and not counted where a
        `keras.StatelessScope` takes the place of the variables.
        """
        if self._hidden is None:
            raise ValueError(f"The layer is not built yet. Received: layer={self.name!r}")
        return self._hidden.refused.numpy()

    def add_weight(
        self, *args: Any, trainable: bool = True, dtype: Any = None, **kwargs: Any
    ) -> Any:
        """Add a variable as Keras does, but statistics never below float32."""
        dtype = dtype or self.variable_dtype
        if not trainable and backend.is_float_dtype(dtype):
            dtype = backend.result_type(dtype, "float32")
        return super().add_weight(*args, trainable=trainable, dtype=dtype, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the variables for inputs of `input_shape`, whose channel count must be known."""
        self._check_input_shape(input_shape)
        super().build(input_shape)
        self._channel_axis = self.axis % len(input_shape)
        for name in self._remembered():
            self._add_state(name, tuple(self.moving_mean.shape))
        if renormalization.is_scheduled(self.renorm_clipping):
            self._add_state("renorm_step", ())
        # Hidden from Keras, so that the layer's weights stay those of Keras's layer.
        self._hidden = SimpleNamespace(refused=_zeros("refused_updates", self.moving_mean.shape))

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`; in training, move the statistics too."""
        x = _floating(inputs)
        path = self.execution_path(x, training=training, mask=mask)
        weights = None
        if mask is not None:
            x = ops.cast(x, backend.result_type(x.dtype, "float32"))
            weights = weights_for(mask, x, self.axis)
            x = where_kept(weights, x, ops.zeros_like(x))
        if training and self.trainable:
            normalize = self._fused_batch if path.fused else self._portable_batch
        else:
            normalize = self._fused_inference if path.fused else self._portable_inference
        return ops.cast(normalize(x, weights), self.compute_dtype)

    def execution_path(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Path:
        """Say how a call with these arguments would compute, and why.

        The fused kernel takes what it computes right: float32, float16 and bfloat16 without
        masks, virtual batches, renorm or statistics shared by replicas, outside XLA.

        Returns:
            `Path(fused, reason)`: whether by TensorFlow's fused kernel, and a clause that says why.

        Raises:
            ValueError: where `fused=True` demands what cannot be had.
        """
        # As Keras does before it calls: it casts, and finds the mask that an earlier layer left.
        dtype = backend.standardize_dtype(
            getattr(inputs, "dtype", None) or np.asarray(inputs).dtype
        )
        if not backend.is_float_dtype(dtype):
            dtype = backend.result_type(dtype, "float32")
        elif self.autocast:
            dtype = self.compute_dtype
        masked = mask is not None or getattr(inputs, "_keras_mask", None) is not None
        return choose(self, dtype, training=bool(training and self.trainable), masked=masked)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return `input_shape`."""
        self._check_input_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs to make this layer again."""
        return {
            **super().get_config(),
            "renorm_clipping": renormalization.config_of(self.renorm_clipping),
            "unbiased_variance": self.unbiased_variance,
            "zero_debias": self.zero_debias,
            "virtual_batch_size": self.virtual_batch_size,
            "fused": self.fused,
        }

    def save_own_variables(self, store: Any) -> None:
        """Write Keras's variables as Keras does, and kbn's own by name."""
        checkpoints.save(self._keras_variables(), self._own_variables(), store)

    def load_own_variables(self, store: Any) -> None:
        """Read the state from a file of kbn's or Keras's layer, with or without renorm.

        What the file lacks follows from what it holds: the statistics of `renorm=True` from the
        moving ones, and with `zero_debias=True` loaded statistics count as settled.

        Raises:
            ValueError: where variables do not fit, or `momentum=None` finds no counts.
        """
        if not self.built:
            self._check_load_own_variables(store)
        self._assign(checkpoints.numbered(store), store)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of all `weights`, or of those that Keras's layer has.

        What is not given follows from the rest, as when a file is loaded.
        """
        if len(weights) == len(self.weights):
            super().set_weights(weights)
        else:
            self._assign(list(weights), {})

    def _assign(self, values: list[Any], own: Any) -> None:
        variables = self._keras_variables()
        fitting = checkpoints.adapted(values, len(variables), self.renorm, self.epsilon)
        if fitting is None:
            raise ValueError(
                f"Layer {self.name!r} expects {len(variables)} variables of Keras's layer, "
                f"{[v.name for v in variables]}, or those with or without renorm's. "
                f"Received: {len(values)} variables"
            )
        fitting += [checkpoints.own_value(v, own, self.name) for v in self._own_variables()]
        checkpoints.check_shapes(self.weights, fitting, self.name)
        for variable, value in zip(self.weights, fitting, strict=True):
            variable.assign(value)

    def _keras_variables(self) -> list[Any]:
        return self.weights[: len(self.weights) - len(self._own_names)]

    def _add_state(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a variable that Keras's layer does not have, behind those that it has."""
        variable = self.add_weight(
            shape=shape, name=name, initializer="zeros", trainable=False, autocast=False
        )
        setattr(self, name, variable)  # an attribute: tf.train.Checkpoint looks for those
        self._own_names = [*self._own_names, name]

    def _own_variables(self) -> list[Any]:
        return [getattr(self, name) for name in self._own_names]

    def _remembered(self) -> tuple[str, ...]:
        """Return the names of what the averages must remember beside themselves."""
        if self.momentum is None:
            return "mean_count", "variance_count"
        return ("mean_debias", "variance_debias") if self.zero_debias else ()

    def _running_statistics(self) -> RunningStatistics:
        """Return how the variables move by the options as they are now, as Keras's would."""
        self._check_own_state()
        seen = [getattr(self, name) for name in self._remembered()] or [None, None]
        spread = self.moving_stddev if self.renorm else self.moving_variance
        mean, spread = (
            Average(variable, self.momentum, remembered)
            for variable, remembered in zip((self.moving_mean, spread), seen, strict=True)
        )
        options = {
            "refused": self._hidden.refused,
            "unbiased": self.unbiased_variance,
            "synchronized": self.synchronized,
        }
        if not self.renorm:
            return RunningStatistics(mean, spread, **options)
        return RenormRunningStatistics(
            mean,
            spread,
            Average(self.renorm_mean, self.renorm_momentum),
            Average(self.renorm_stddev, self.renorm_momentum),
            variance=self.moving_variance,
            epsilon=self.epsilon,
            clock=getattr(self, "renorm_step", None),
            **options,
        )

    def _check_own_state(self) -> None:
        scheduled = renormalization.is_scheduled(self.renorm_clipping)
        wanted = [*self._remembered(), *["renorm_step"] * scheduled]
        if set(wanted) - set(self._own_names) or self.renorm != hasattr(self, "renorm_mean"):
            raise ValueError(
                "momentum=None, zero_debias, renorm and a renorm schedule need variables of their "
                "own and cannot be given once the layer is built. Received, after build: "
                f"momentum={self.momentum}, zero_debias={self.zero_debias}, renorm={self.renorm}, "
                f"renorm_clipping={self.renorm_clipping}"
            )

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        # TensorFlow asks. A training function that is exported counts refusals, and a variable
        # that nobody owns cannot be saved; a checkpoint holds what one of Keras's layer does.
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel" and self._hidden is not None:
            children["refused_updates"] = self._hidden.refused.value
        return children

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
        if self.virtual_batch_size is not None and self.axis % rank == 0:
            raise ValueError(
                "virtual_batch_size cuts axis 0, so it cannot be the channel axis. Received: "
                f"virtual_batch_size={self.virtual_batch_size}, axis={self.axis}, "
                f"input_shape={tuple(input_shape)}"
            )

    def _fused_batch(self, x: Tensor, _: None) -> Tensor:
        """Normalize `x` with its own moments and let them move the statistics, by the kernel."""
        outputs, batch = fused_kernel.normalize_batch(
            x, self._channel_axis, self._gamma("float32"), self._beta("float32"), self.epsilon
        )
        self._running_statistics().move(batch)
        return outputs

    def _portable_batch(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Normalize `x` with its own moments and let them move the statistics."""
        if self.virtual_batch_size is None:
            return self._portable_groups(x, weights, self._channel_axis)
        groups, weights = virtual_batches.split(x, self.virtual_batch_size, weights)
        outputs = self._portable_groups(groups, weights, self._channel_axis + 1)
        return virtual_batches.join(outputs, x)

    def _portable_groups(self, x: Tensor, weights: Tensor | None, axis: int) -> Tensor:
        """Normalize `x`; where virtual batches lie before `axis`, each by its own moments."""
        statistics = self._running_statistics()
        axes = _all_but(axis, x, first=axis - self._channel_axis)
        gather = replicas.gather if self.synchronized and replicas.several() else None
        batch = center(x, axes, weights, gather)
        correction = self._correction(batch.moments) if self.renorm else None
        statistics.move(batch.moments)
        scale, bias = self._transform(batch.moments.variance, correction)
        scale, bias = _along(scale, x, axis), _along(bias, x, axis)
        # Unlike a mean, the offset is of the order of the spread at most: it may be multiplied out.
        outputs = affine(batch.x, batch.pivot, scale, bias - batch.offset * scale, axes)
        return self._or_beta(outputs, weights, axis)

    def _fused_inference(self, x: Tensor, _: None) -> Tensor:
        """Normalize `x` with the moving statistics, by the kernel."""
        return fused_kernel.normalize(
            x,
            self._channel_axis,
            self._gamma("float32"),
            self._beta("float32"),
            ops.cast(self.moving_mean.value, "float32"),
            ops.cast(self.moving_variance.value, "float32"),
            self.epsilon,
        )

    def _portable_inference(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Normalize `x` with the moving statistics."""
        axis, dtype = self._channel_axis, backend.result_type(x.dtype, "float32")
        scale, bias = self._transform(ops.cast(self.moving_variance.value, dtype))
        mean = ops.cast(self.moving_mean.value, dtype)
        mean, scale, bias = (_along(values, x, axis) for values in (mean, scale, bias))
        outputs = affine(x, mean, scale, bias if self.center else None, _all_but(axis, x))
        return self._or_beta(outputs, weights, axis)

    def _or_beta(self, outputs: Tensor, weights: Tensor | None, axis: int) -> Tensor:
        """Return `outputs`, and beta where masked."""
        if weights is None:
            return outputs
        return where_kept(weights, outputs, _along(self._beta(outputs.dtype), outputs, axis))

    def _transform(
        self, variance: Tensor, correction: Correction | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what multiplies a deviation from the mean and what is added, (…, C) each."""
        scale = ops.rsqrt(variance + self.epsilon)
        gamma, beta = self._gamma(scale.dtype), self._beta(scale.dtype)
        if correction is None:
            return scale * gamma, beta
        return scale * correction.r * gamma, correction.d * gamma + beta

    def _gamma(self, dtype: Any) -> Tensor:
        gamma = self.gamma.value if self.scale else ops.ones_like(self.moving_mean.value)
        return ops.cast(gamma, dtype)

    def _beta(self, dtype: Any) -> Tensor:
        beta = self.beta.value if self.center else ops.zeros_like(self.moving_mean.value)
        return ops.cast(beta, dtype)

    def _correction(self, batch: Moments) -> Correction:
        """Return renorm's correction for a batch, by the statistics before it moves them."""
        scheduled = renormalization.is_scheduled(self.renorm_clipping)
        step = self.renorm_step.value if scheduled else None
        limits = renormalization.limits_at(self.renorm_clipping or {}, step)
        dtype = batch.mean.dtype
        least = self.epsilon**0.5  # no batch has a smaller one
        return renormalization.correction(
            batch.mean,
            ops.sqrt(batch.variance + self.epsilon),
            ops.cast(self.renorm_mean.value, dtype),
            ops.maximum(
                ops.cast(self.renorm_stddev.value, dtype), ops.convert_to_tensor(least, dtype)
            ),
            limits,
        )


def _zeros(name: str, shape: tuple[int, ...]) -> Any:
    return keras.Variable(
        initializer="zeros", shape=tuple(shape), dtype="int64", trainable=False, name=name
    )


def _floating(x: Tensor) -> Tensor:
    if backend.is_float_dtype(backend.standardize_dtype(x.dtype)):
        return x
    return ops.cast(x, backend.result_type(x.dtype, "float32"))


def _all_but(axis: int, x: Tensor, first: int = 0) -> list[int]:
    return [i for i in range(first, len(x.shape)) if i != axis]


def _along(per_channel: Tensor, x: Tensor, axis: int) -> Tensor:
    """Lay (C,) along `axis` of `x`; of (G, C), G lies along axis 0."""
    shape = [1] * len(x.shape)
    shape[axis] = x.shape[axis]
    if len(per_channel.shape) == 2:
        shape[0] = -1
    return ops.reshape(per_channel, shape)
